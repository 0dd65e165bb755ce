"""SETR in a page: engine, kernel, and a checkpoint laid out for them. Imports models."""

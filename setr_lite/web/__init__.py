"""SETR in a page: an engine in JavaScript and what lays a checkpoint out for it. Imports the model."""

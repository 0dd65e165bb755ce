"""SETR in a page: an engine in JavaScript and what lays a checkpoint out. Imports the model."""

"""SETR in a page: an engine in JavaScript, its kernel, and what is laid out of a checkpoint.
Imports the model and its checkpoint."""

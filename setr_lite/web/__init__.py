"""SETR in a page: an engine in JavaScript, its kernel, and what is laid out from a checkpoint to run
there. Imports the model and its checkpoint."""

"""Tunesmith: from a file of examples to a tuned model in use."""

__version__ = "0.1.0"

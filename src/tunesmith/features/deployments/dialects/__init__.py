"""Public APIs: how each is read into the one form of `core/inference.py`, and how answers are written in it."""

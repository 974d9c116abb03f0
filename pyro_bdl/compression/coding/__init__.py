"""Integers to bytes: models, the range coder, the file around them."""

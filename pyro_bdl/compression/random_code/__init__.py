"""Relative-entropy coding: a draw of the posterior as random indices."""

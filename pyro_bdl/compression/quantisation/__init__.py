"""Fewer bits for each weight: widths, integers, shared values, and how they are chosen."""

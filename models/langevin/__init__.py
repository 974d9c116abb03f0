"""Langevin sampling on problems whose answer is known, a file each: `mixture`, `logistic`, `risk`; and `uci`, the regression tables.

`python -m models.langevin --problem mixture` runs one; each writes its table, figures and ArviZ data.
"""

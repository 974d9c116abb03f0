"""Langevin sampling on problems whose answer is known, `mixture`, `logistic` and `risk`, and on regression tables, `uci`.

A file each; `python -m models.langevin --problem mixture` runs one, which writes its table, figures and ArviZ data.
"""

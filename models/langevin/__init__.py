"""Langevin sampling where the answer is known (`mixture`, `logistic`, `risk`), and on regression tables (`uci`).

A file each; `python -m models.langevin --problem mixture` runs one, which writes its table, figures and ArviZ data.
"""

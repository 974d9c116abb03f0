"""Cox's proportional hazards, and the same model made deep: a network, and a Bayesian one.

`python -m models.deep_survival --data metabric` fits them and writes a table, figures and ArviZ data.
"""

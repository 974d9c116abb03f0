"""Bayesian deep learning on Pyro."""

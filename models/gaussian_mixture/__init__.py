"""A mixture of Gaussians as one Pyro model, fitted by EM, by SVI and by SGLD."""

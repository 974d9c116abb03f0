"""The units of a network that can be pruned, and the smaller network without them."""

"""The Markov random field: four towns on a ring road, each jammed or not, which jam one another.

A field of this kind has no Bayes net of the same independences: given two towns that are opposite, the other two are
independent, both ways.
"""

import torch

from pyro_bdl.graph import MarkovField

SPREAD = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)  # neighbours tend to be alike, and free
RUSH = torch.tensor([1.0, 2.0], dtype=torch.float64)  # the odds of a jam in the north, by itself

ring_road = MarkovField({
    ("north",): RUSH,
    ("north", "east"): SPREAD,
    ("east", "south"): SPREAD,
    ("south", "west"): SPREAD,
    ("west", "north"): SPREAD,
})  # fmt: skip

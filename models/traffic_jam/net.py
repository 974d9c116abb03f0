"""The Bayes net: rush hour and bad weather, an accident, its sirens, and the traffic jam.

Bad weather makes accidents more likely; rush hour, bad weather and accidents make jams more likely; an accident brings
sirens. The tables are made up, to be plausible; all are probabilities of "yes".
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

RUSH_HOUR = torch.tensor(0.2, dtype=torch.float64)
BAD_WEATHER = torch.tensor(0.3, dtype=torch.float64)
ACCIDENT = torch.tensor([0.05, 0.15], dtype=torch.float64)  # by bad weather
SIRENS = torch.tensor([0.1, 0.8], dtype=torch.float64)  # by accident
TRAFFIC_JAM = torch.tensor(
    [  # by rush hour, bad weather, accident
        [[0.05, 0.60], [0.15, 0.70]],
        [[0.50, 0.90], [0.65, 0.95]],
    ],
    dtype=torch.float64,
)
SHORT = {"rush_hour": "r", "bad_weather": "w", "accident": "a", "sirens": "s", "traffic_jam": "j"}


def traffic_jam() -> Tensor:
    """The Pyro program; whether there is a jam."""
    rush_hour = pyro.sample("rush_hour", dist.Bernoulli(RUSH_HOUR)).long()
    bad_weather = pyro.sample("bad_weather", dist.Bernoulli(BAD_WEATHER)).long()
    accident = pyro.sample("accident", dist.Bernoulli(ACCIDENT[bad_weather])).long()
    pyro.sample("sirens", dist.Bernoulli(SIRENS[accident]))
    return pyro.sample("traffic_jam", dist.Bernoulli(TRAFFIC_JAM[rush_hour, bad_weather, accident]))


def joint_table() -> Tensor:
    """All 32 probabilities, by an axis a variable in the order of `SHORT`, multiplied by hand: the check of Pyro's."""

    def both(yes: Tensor) -> Tensor:
        return torch.stack([1 - yes, yes], -1)

    return torch.einsum(
        "r,w,wa,as,rwaj->rwasj", both(RUSH_HOUR), both(BAD_WEATHER), both(ACCIDENT), both(SIRENS), both(TRAFFIC_JAM)
    )

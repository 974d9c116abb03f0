"""The noise that SGLD injects beside that of its gradients, by iteration."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.langevin.mixture_chains import Chains
from models.langevin.mixture_target import log_joint, prior_precisions, score
from pyro_bdl.sgmcmc.updates import log_acceptance, preconditioned_langevin

LOOKS = 50  # at how many sweeps noise and acceptance are looked at


@dataclass(frozen=True, eq=False)
class Noise:
    """The two kinds of noise at some updates of the decaying chains, as means over chains.

    Attributes:
        updates, steps: which, and e there, (looks,).
        gradient: (e N)^2 / 4 times the variance of a data point's score, (2, looks): theta_1 and theta_2.
        rejection: by the Metropolis-Hastings test on the posterior that SGLD leaves out, (looks,).
    """

    updates: Tensor
    steps: Tensor
    gradient: Tensor
    rejection: Tensor


def look_at_noise(x: Tensor, chains: Chains) -> Noise:
    """At `LOOKS` draws, evenly spaced in the logarithm of their number."""
    last = len(chains.steps) - 1
    numbers = torch.logspace(0, float(np.log10(last + 1)), LOOKS, dtype=torch.float64)
    chosen = numbers.long().clamp(1, last + 1).unique() - 1
    variances, rejections = [], []
    for i in chosen.tolist():
        theta, step = chains.theta[:, i], float(chains.steps[i])
        scores = score(theta[:, :, None].expand(-1, -1, len(x)), x)
        variances.append(0.25 * (step * len(x)) ** 2 * scores.var(-1, correction=0).mean(-1))
        rejections.append(1 - _acceptance(x, theta, step))
    return Noise(chains.updates[chosen], chains.steps[chosen], torch.stack(variances, 1), torch.tensor(rejections))


def _acceptance(x: Tensor, theta: Tensor, step: float) -> float:
    """The mean probability with which a step from theta (2, chains) by one data point each would be accepted.

    The test is on all data; the data point is the same there and back.
    """
    theta = theta.repeat(1, 32)
    point = x[torch.randint(len(x), theta.shape[1:])]

    def gradient(at: Tensor) -> Tensor:
        return score(at, point, times=len(x)) - at * prior_precisions(x)

    before = gradient(theta)
    moved = preconditioned_langevin(theta, before, torch.randn_like(theta), torch.ones(1), step_size=step)
    gain = log_joint(moved, x) - log_joint(theta, x)
    ratio = log_acceptance(theta.T, before.T, moved.T, gradient(moved).T, gain=gain, step_size=step)
    return float(ratio.clamp(max=0.0).exp().mean())

"""Cox's partial likelihood and Breslow's baseline: sums over those still at risk.

Pure functions of log hazard ratios eta (N,), times and events (N,). The risk set of subject i is
R_i = {k: t_k >= t_i}. All take O(N log N).
"""

from typing import Literal

import torch
from torch import Tensor

from pyro_bdl.errors import InputError

Ties = Literal["efron", "breslow"]


def partial_log_likelihood(log_ratio: Tensor, time: Tensor, event: Tensor, *, ties: Ties = "efron") -> Tensor:
    r"""Each subject's term of the logarithm of Cox's partial likelihood, in nats; 0 where censored.

    .. math:: \ell_i = \delta_i \Big(\eta_i - \log\Big[\sum_{k \in R_i} e^{\eta_k}
        - \frac{l_i}{d_i} \sum_{k \in D_i} e^{\eta_k}\Big]\Big)

    with D_i the d_i events at the time t_i, of which i is number l_i = 0, 1, ... (Cox 1972; Efron 1977 for ties).
    Breslow's approximation (1974) leaves the second sum out. Without ties both are Cox's.

    Args:
        log_ratio: eta, (N,).
        time: (N,).
        event: delta, bool or 0 and 1, (N,).
        ties: "efron" (default: the closer to the exact likelihood) or "breslow".

    Returns:
        (N,), in the order given.

    >>> eta, time = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([3.0, 1.0, 2.0])
    >>> partial_log_likelihood(eta, time, torch.tensor([1, 1, 0]))[1] == 1.0 - eta.logsumexp(0)
    tensor(True)
    """
    order = time.argsort()
    t, eta, happened = time[order].contiguous(), log_ratio[order], event[order].bool()
    first = torch.searchsorted(t, t)  # where those of the same time begin
    at_risk = _log_sums_from(eta)[first]
    if ties == "efron":
        count = happened.to(eta.dtype)
        share = torch.where(happened, (eta - at_risk).exp(), 0.0)
        of_events = torch.zeros_like(eta).scatter_add(0, first, share)[first]  # sum over D_i / sum over R_i
        before = count.cumsum(0) - count
        number = before - before[first]
        among = torch.zeros_like(eta).scatter_add(0, first, count)[first].clamp_min(1.0)
        at_risk = at_risk + torch.log1p(-torch.where(happened, number / among, 0.0) * of_events)
    terms = torch.where(happened, eta - at_risk, 0.0)
    return terms[order.argsort()]


def breslow_cumulative_hazard(log_ratio: Tensor, time: Tensor, event: Tensor, at: Tensor) -> Tensor:
    r"""Breslow's estimate of the cumulative baseline hazard (1974), of a subject with eta = 0.

    .. math:: \hat H_0(t) = \sum_{i: t_i \le t} \frac{\delta_i}{\sum_{k \in R_i} e^{\eta_k}}

    Args:
        log_ratio: eta, (N,).
        time: (N,).
        event: delta, bool or 0 and 1, (N,).
        at: times at which it is wanted, (T,).

    Returns:
        (T,), without a unit; 0 before the first event.

    >>> time, event = torch.tensor([1.0, 2.0]), torch.tensor([1, 1])
    >>> breslow_cumulative_hazard(torch.zeros(2), time, event, torch.tensor([0.5, 1.0, 2.0]))  # Nelson and Aalen's
    tensor([0.0000, 0.5000, 1.5000])
    """
    order = time.argsort()
    t, eta, happened = time[order].contiguous(), log_ratio[order], event[order].bool()
    jumps = torch.where(happened, (-_log_sums_from(eta)[torch.searchsorted(t, t)]).exp(), 0.0)
    steps = torch.cat([jumps.new_zeros(1), jumps.cumsum(0)])
    return steps[torch.searchsorted(t, at.contiguous(), right=True)]


def check_ties(ties: str) -> None:
    """Refuse a name that is not known."""
    if ties not in ("efron", "breslow"):
        raise InputError("ties", expected='"efron" or "breslow"', got=repr(ties))


def _log_sums_from(eta: Tensor) -> Tensor:
    """log sum_{k >= i} exp(eta_k) for each i."""
    return eta.flip(0).logcumsumexp(0).flip(0)

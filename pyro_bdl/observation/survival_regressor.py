"""Times of events, some of them censored, observed through a hazard."""

from collections.abc import Callable
from typing import Any, Literal

import pyro
import pyro.distributions as dist
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_bdl.data_plate import observation_plate
from pyro_bdl.distributions import PiecewiseExponential, RightCensored
from pyro_bdl.errors import InputError
from pyro_bdl.observation.checks import check_curve_times, check_observed, check_rank
from pyro_bdl.observation.intervals import Intervals
from pyro_bdl.parameters import own_parameter

Baseline = Literal["learned"] | Distribution


class SurvivalRegressor:
    r"""Proportional hazards with a piecewise constant baseline, in a data plate.

    .. math:: h(t \mid x_n) = r_j\, e^{a_j + f(x_n)} \quad \text{for } c_{j-1} < t \le c_j, \qquad
        \log p(t_n, \delta_n \mid x_n) = \delta_n \log h(t_n \mid x_n) - H(t_n \mid x_n)

    With a linear f this is Cox's model (1972) with the baseline of Friedman (1982); the more intervals, the closer it
    comes to the partial likelihood. Unlike that it is a sum over subjects, so that minibatches and draws of weights
    for each data point are right. With an output for each interval, f_j(x_n), hazards need not be proportional
    (Kvamme & Borgan 2021, "PC-Hazard").

    Args:
        network: gives log hazard ratios f, of shape (B,) or (B, 1), or (B, J). It needs no bias, which a would stand
            in for.
        intervals: c and r, `Intervals.of_events(time, event)`; the rates r carry the unit of time.
        baseline: what a is, J logarithms of the baseline over the rates. A distribution of J numbers: random, the site
            `<site>.log_baseline`. `"learned"`: parameters of this object, fitted by maximum likelihood (SVI only).
            Default: independent N(0, 1), which says that the baseline is within a factor of 7 of the rates for 95%.
        size: N, the number of subjects of which a call sees B. Default: what `fit_svi` or a kernel says it is; B
            itself where nobody says.
        plate: the name of the data plate.
        site: the name of the observed site.

    Raises:
        InputError: a baseline of another kind or length, outputs of another shape, times that are not positive, events
            that are not 0 or 1, one of the two without the other.

    >>> import torch, pyro_bdl as bdl
    >>> x, time, event = torch.randn(50, 4), torch.rand(50) + 0.1, torch.arange(50) % 3 > 0
    >>> model = SurvivalRegressor(
    ...     bdl.BayesianModule(torch.nn.Linear(4, 1, bias=False)), Intervals.of_events(time, event, count=5)
    ... )
    >>> sites = pyro.poutine.trace(model).get_trace(x, time, event)
    >>> list(sites.stochastic_nodes), sites.observation_nodes
    (['weight', 'time.log_baseline', 'data'], ['time'])
    >>> model.curves(torch.tensor([0.1, 0.5]))(x).shape  # P(T > t | x) for the 50 subjects
    torch.Size([50, 2])
    """

    def __init__(
        self,
        network: Callable[..., Tensor],
        intervals: Intervals,
        *,
        baseline: Baseline | None = None,
        size: int | None = None,
        plate: str = "data",
        site: str = "time",
    ) -> None:
        count = len(intervals.rates)
        if baseline is None:
            baseline = dist.Normal(intervals.rates.new_zeros(count), 1.0)
        if not (baseline == "learned" or _is_of(count, baseline)):
            expected = f'"learned" or a distribution of {count} real numbers'
            raise InputError("baseline", expected=expected, got=repr(baseline))
        if isinstance(baseline, Distribution) and baseline.batch_shape:
            baseline = dist.Independent(baseline, 1)
        self.network, self.intervals, self.baseline = network, intervals, baseline
        self.size, self.plate, self.site = size, plate, site
        self._learned: nn.Parameter | None = None

    def __call__(self, x: Tensor, time: Tensor | None = None, event: Tensor | None = None) -> Tensor:
        """The times: those observed, or a draw of times of events."""
        law = self._law(x)
        check_observed(time, event, law.log_hazard)
        with observation_plate(self.plate, len(x), self.size):
            return pyro.sample(self.site, RightCensored(law, event), obs=time)

    def curves(self, times: Tensor) -> Callable[[Tensor], Tensor]:
        """A Pyro program of x that returns the survival curves P(T > t | x), (B, T), at `times` (T,), in their unit.

        With posterior draws, `bdl.predict(model.curves(times), draws, x)` has the shape (draws, B, T).

        Raises:
            InputError: times that are negative, or not a vector.
        """
        check_curve_times(times)

        def survival(x: Tensor) -> Tensor:
            law = self._law(x)
            return law.expand((len(times), len(x))).log_survival(times[:, None]).exp().T

        return survival

    def _law(self, x: Tensor) -> PiecewiseExponential:
        outputs = self.network(x)
        ratios = outputs[:, None] if outputs.dim() == 1 else outputs
        count = len(self.intervals.rates)
        check_rank("the network's output", ratios, 2, f"(batch,), (batch, 1) or (batch, {count})")
        if ratios.shape[1] not in (1, count):
            raise InputError("the network's output", expected=f"1 or {count} columns", got=f"{ratios.shape[1]}")
        log_hazard = self.intervals.rates.log() + self._log_baseline() + ratios
        return PiecewiseExponential(log_hazard, self.intervals.cuts)

    def _log_baseline(self) -> Tensor:
        name = f"{self.site}.log_baseline"
        if self.baseline != "learned":
            return pyro.sample(name, self.baseline)  # type: ignore[arg-type]
        if self._learned is None:
            self._learned = nn.Parameter(self.intervals.rates.new_zeros(len(self.intervals.rates)))
        return own_parameter(name, self._learned)


def _is_of(count: int, baseline: Any) -> bool:
    """Whether it is a distribution of that many real numbers at once."""
    if not isinstance(baseline, Distribution):
        return False
    discrete = bool(getattr(baseline.support, "is_discrete", False))
    return tuple(baseline.batch_shape + baseline.event_shape) == (count,) and not discrete

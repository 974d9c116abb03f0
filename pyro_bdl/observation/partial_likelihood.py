"""Cox's partial likelihood of a network: who of those at risk has the event, whatever the baseline."""

from collections.abc import Callable

import pyro
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor

from pyro_bdl.data_plate import observation_plate
from pyro_bdl.errors import InputError, UnsupportedModelError
from pyro_bdl.observation.checks import can_look, check_curve_times, check_observed, one_each
from pyro_bdl.observation.risk_sets import Ties, breslow_cumulative_hazard, check_ties, partial_log_likelihood


class PartialLikelihood:
    r"""Proportional hazards :math:`h(t \mid x) = h_0(t)\, e^{f(x)}` by Cox's partial likelihood (1972, 1975).

    .. math:: \log L = \sum_i \delta_i \Big(f(x_i) - \log \sum_{k:\, t_k \ge t_i} e^{f(x_k)}\Big)

    A factor of the Pyro program (`pyro.factor`), with Efron's or Breslow's rule for ties; see `risk_sets`. The
    baseline h_0 has dropped out; `curves` puts Breslow's estimate of it in.

    It is **no sum over subjects**, since each term has its whole risk set in it:

    - In a minibatch the risk sets are those within the batch, its terms scaled by N/B. That is not an unbiased
      estimate of the partial likelihood of all data, but of an objective with the same maximum in expectation where
      hazards are proportional (Tarkhan & Simon 2020, "BigSurvSGD"); larger batches lose less of the information. A
      posterior from minibatches is that of this objective. `SurvivalRegressor` has no such reservation.
    - Draws of weights for each data point (`local_reparameterization`, `flipout`) are refused: risk sets compare
      subjects, who must be seen by the same weights. Say `fit_svi(..., estimator="plain")`.
    - There is no log-likelihood of a subject, so ArviZ's `loo` has nothing to work on.

    Args:
        network: gives log hazard ratios f, of shape (B,) or (B, 1). A bias drops out.
        ties: "efron" or "breslow". Default "efron", the closer to the exact likelihood.
        size: N, the number of subjects of which a call sees B. Default: what `fit_svi` or a kernel says it is; B
            itself where nobody says.
        plate: the name of the data plate.
        site: the name of the factor.

    Raises:
        InputError: outputs of another shape, times that are not positive, events that are not 0 or 1, no event in the
            batch (nothing could be learnt from it), one of times and events without the other.
        UnsupportedModelError: weights drawn for each data point.

    >>> import torch, pyro_bdl as bdl
    >>> x, time, event = torch.randn(50, 4), torch.rand(50) + 0.1, torch.arange(50) % 3 > 0
    >>> model = PartialLikelihood(bdl.BayesianModule(torch.nn.Linear(4, 1, bias=False)))
    >>> guide = bdl.guides.AutoMeanField(model)
    >>> fit = bdl.fit_svi(model, guide, (x, time, event), epochs=2, estimator="plain", progress=False)
    >>> curves = model.curves((x, time, event), torch.tensor([0.1, 0.5]))
    >>> bdl.predict(curves, bdl.guide_draws(guide, x, num_samples=10), x[:3]).shape
    torch.Size([10, 3, 2])
    """

    def __init__(
        self,
        network: Callable[..., Tensor],
        *,
        ties: Ties = "efron",
        size: int | None = None,
        plate: str = "data",
        site: str = "partial_likelihood",
    ) -> None:
        check_ties(ties)
        self.network, self.ties, self.size, self.plate, self.site = network, ties, size, plate, site

    def __call__(self, x: Tensor, time: Tensor | None = None, event: Tensor | None = None) -> Tensor:
        """The log hazard ratios (B,)."""
        with _SharedWeights():
            log_ratio = one_each(self.network(x))
        check_observed(time, event, log_ratio)
        if time is not None and event is not None:
            _require_events(event)
            terms = partial_log_likelihood(log_ratio, time, event, ties=self.ties)
            with observation_plate(self.plate, len(x), self.size):
                pyro.factor(self.site, terms)
        return log_ratio

    def curves(self, data: tuple[Tensor, Tensor, Tensor], times: Tensor) -> Callable[[Tensor], Tensor]:
        r"""A Pyro program of x that returns the survival curves, (B, T), with Breslow's baseline:

        .. math:: S(t \mid x) = \exp(-\hat H_0(t)\, e^{f(x)})

        Args:
            data: what the baseline is estimated from, each time under the same draw of the weights: x, time, event.
            times: where the curves are wanted, (T,), in the unit of the times.

        Raises:
            InputError: data as they cannot be observed, times that are negative, or not a vector.
        """
        x_data, time, event = data
        check_observed(time, event, x_data)
        _require_events(event)
        check_curve_times(times)

        def survival(x: Tensor) -> Tensor:
            log_ratio = self(torch.cat([x_data, x]))  # one pass, since a pass is one draw of the weights
            known, asked = log_ratio[: len(x_data)], log_ratio[len(x_data) :]
            level = known.max()  # taken off both, so that neither overflows
            hazard = breslow_cumulative_hazard(known - level, time, event, times)
            return (-hazard * (asked - level).exp()[:, None]).exp()

        return survival


class _SharedWeights(Messenger):
    """Refuses weights that are drawn where they are used: these have roots (see `estimators`)."""

    def _pyro_post_sample(self, msg: Message) -> None:
        if hasattr(msg["value"], "roots"):
            raise UnsupportedModelError(
                "the partial likelihood", expected="one draw of the weights for all subjects of a batch",
                got=f"{msg['name']} drawn for each data point",
                remedy='Say estimator="plain" in fit_svi, or take SurvivalRegressor, which is a sum over subjects',
            )  # fmt: skip


def _require_events(event: Tensor) -> None:
    if can_look(event) and not bool((event != 0).any()):
        raise InputError(
            "events in a batch", expected="at least one", got=f"none among {len(event)} subjects",
            remedy="Take larger batches, or SurvivalRegressor, which learns from censored times, too",
        )  # fmt: skip

"""Which units of a network stay: candidates, by thresholds given or chosen on validation data."""

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from pyro_bdl.compression.posterior import WeightPosterior
from pyro_bdl.compression.pruning import keep_below, unit_information, unit_log_alpha
from pyro_bdl.compression.quantisation.widths import NOISE
from pyro_bdl.compression.thresholds import choose_thresholds
from pyro_bdl.compression.units.finding import Units
from pyro_bdl.compression.units.shrinking import shrink
from pyro_bdl.compression.validation import Error

SHARES = (0.0, 0.5)  # of the tolerance that units may use up; the rest is for quantisation

Masks = Mapping[str, Tensor]


def unit_masks(
    mean: nn.Module,
    posterior: WeightPosterior,
    units: Units,
    given: float | Mapping[str, float] | None,
    evaluate: Error | None,
    *,
    unpruned: float,
    tolerance: float,
) -> Iterator[Masks]:
    """The units that stay: by the thresholds given; else all, and those of the most information.

    Args:
        mean: the network at the posterior mean.
        posterior: of its weights. One without any scales tells of no unit that it is noise.
        units: of the network.
        given: thresholds on log alpha; without them and without `evaluate` they are 3.
        evaluate, unpruned, tolerance: the validation error, what it is with all units, and how much more is allowed, of
            which the cut may use up a share.
    """
    if given is not None or evaluate is None:
        yield keep_below(unit_log_alpha(posterior, units), NOISE if given is None else given, units=units)
        return
    scores = {name: -nats for name, nats in unit_information(posterior, units).items()}
    known: dict[bytes, float] = {}
    limit = unpruned + max(SHARES) * tolerance

    def error(kept: Masks) -> float:
        if _key(kept) not in known:
            known[_key(kept)] = evaluate(shrink(mean, kept, None, units=units), limit)
        return known[_key(kept)]

    found: dict[bytes, Masks] = {_key(units.complete({})): {}}
    for share in SHARES if scores and posterior.has_scales else ():
        kept = choose_thresholds(scores, error, tolerance=share * tolerance, units=units).kept
        found.setdefault(_key(kept), kept)
    yield from found.values()


def _key(masks: Masks) -> bytes:
    return b"".join(mask.numpy().tobytes() for mask in masks.values())

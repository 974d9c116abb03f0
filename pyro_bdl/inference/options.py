"""What `fit_svi` refuses before it does anything."""

from collections.abc import Callable
from typing import Any

from pyro.infer import RenyiELBO

from pyro_bdl.compression.random_code.kl_budget import KLBudget
from pyro_bdl.errors import InputError, UnsupportedModelError
from pyro_bdl.guides import AutoMeanField
from pyro_bdl.inference.elbo import MeanFieldELBO
from pyro_bdl.inference.shrink import Shrink
from pyro_bdl.number_checks import not_negative, require_count

BOUND = ("num_particles", "num_samples", "kl_weight", "free_bits", "alpha", "gradient")  # what bounds differ in
KLWeight = float | Callable[[float], float] | KLBudget


def check(epochs: int, num_particles: int, kl_weight: KLWeight, kl_warmup: float, estimator: str, elbo: Any) -> None:
    """Numbers out of range, and options that do not go together."""
    require_count("epochs", epochs)
    require_count("num_particles", num_particles)
    if isinstance(kl_weight, KLBudget) and kl_warmup:
        remedy = "Give the budget a small start"
        raise InputError("kl_warmup", expected="0 with a KLBudget", got=repr(kl_warmup), remedy=remedy)
    for name, number in (("kl_weight", weight_of(kl_weight)(0.0)), ("kl_warmup", kl_warmup)):
        not_negative(name, number)
    if estimator not in ("local", "flipout", "plain"):
        raise InputError("estimator", expected='"local", "flipout" or "plain"', got=repr(estimator))
    if isinstance(elbo, RenyiELBO) and estimator != "plain":
        # Its importance weights need one draw of all weights, not one for each data point.
        raise InputError("estimator", expected='"plain" with RenyiELBO', got=repr(estimator))
    if elbo is not None and num_particles != 1:
        raise InputError("num_particles", expected="1 with an ELBO, which has its own", got=str(num_particles))
    if elbo is not None and not isinstance(elbo, MeanFieldELBO) and (kl_weight, kl_warmup) != (1.0, 0.0):
        raise InputError(
            "kl_weight and kl_warmup", expected="1 and 0 with a Pyro ELBO, whose KL cannot be weighted",
            got=f"{kl_weight} and {kl_warmup}",
        )  # fmt: skip


def told(
    seed: int | None, kl_weight: KLWeight, kl_warmup: float, estimator: str, elbo: Any, num_particles: int
) -> list[str]:
    """What a checkpoint says of a fit, so that another one is not taken for it; functions are not told apart."""
    bound = MeanFieldELBO(num_particles) if elbo is None else elbo
    of_bound = ((name, getattr(bound, name, None)) for name in BOUND)
    return [
        _told("seed", seed), _told("kl_weight", kl_weight), _told("kl_warmup", kl_warmup), estimator,
        ", ".join([type(bound).__name__, *(_told(name, value) for name, value in of_bound if value is not None)]),
    ]  # fmt: skip


def _told(name: str, value: Any) -> str:
    if value is None:
        return f"no {name}"
    if isinstance(value, (int, float)):
        return f"{name} {value:g}"
    return f"{name} {value if isinstance(value, str) else type(value).__name__}"


def weight_of(kl_weight: KLWeight) -> Callable[[float], float]:
    """The weight of the KL by the fraction of steps done; 1 where a budget multiplies it."""
    if isinstance(kl_weight, KLBudget):
        return lambda _: 1.0
    if not callable(kl_weight):
        return lambda _: kl_weight
    return lambda fraction: not_negative(f"kl_weight({fraction:.3g})", kl_weight(fraction))


def shrink_options(shrink: Shrink | bool, guide: Any, elbo: Any) -> Shrink | None:
    """The options of `shrink=`, if the network is to shrink."""
    if not isinstance(shrink, (Shrink, bool)):
        raise InputError("shrink", expected="True, False or a Shrink", got=repr(shrink))
    if shrink is False:
        return None
    _require_flat("a fit with shrink=", guide, elbo)
    return Shrink() if shrink is True else shrink


def budget_of(kl_weight: KLWeight, guide: Any, elbo: Any, options: Shrink | None) -> KLBudget | None:
    """The budget that drives the KL, if one does."""
    if not isinstance(kl_weight, KLBudget):
        return None
    _require_flat("a fit with a KLBudget", guide, elbo)
    if options is not None:
        raise InputError("shrink", expected="False with a KLBudget, whose blocks are of all weights", got="True")
    return kl_weight


def _require_flat(what: str, guide: Any, elbo: Any) -> None:
    """Raise unless the fit is one on flat buffers, whose numbers can be told apart."""
    if type(guide) is not AutoMeanField or elbo is not None:
        got = type(guide).__name__ + ("" if elbo is None else f" and {type(elbo).__name__}")
        raise UnsupportedModelError(what, expected="an AutoMeanField, without elbo=", got=got)

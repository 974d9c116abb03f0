"""The bounds by their names in the literature."""

from typing import Any, Literal, get_args

from pyro.infer import Trace_ELBO, TraceGraph_ELBO

from pyro_bdl.errors import InputError
from pyro_bdl.inference.elbo import MeanFieldELBO
from pyro_bdl.inference.importance_weighted import ImportanceWeightedELBO
from pyro_bdl.number_checks import require_count

ObjectiveName = Literal["elbo", "monte-carlo", "score-function", "iwae", "dreg"]


def objective(name: ObjectiveName, *, num_samples: int = 1, beta: float = 1.0, free_bits: float = 0.0) -> Any:
    r"""A bound for Pyro's `SVI`, or `fit_svi(elbo=)`, by its name.

    | name | bound | gradient of the guide |
    |---|---|---|
    | `elbo` | `MeanFieldELBO`: KL in closed form | reparameterised |
    | `monte-carlo` | Pyro's `Trace_ELBO`: KL from the draws | reparameterised |
    | `score-function` | Pyro's `TraceGraph_ELBO` | REINFORCE with the guide's baseline, where draws let none through |
    | `iwae` | `ImportanceWeightedELBO` of S draws | reparameterised |
    | `dreg` | the same | doubly reparameterised (Tucker et al. 2019) |

    Args:
        name: one of these.
        num_samples: S, draws for each data point; averaged but for `iwae` and `dreg`. Default 1.
        beta: the weight of the KL, for `elbo` only. Default 1, the bound.
        free_bits: nats that each latent number has free, for `elbo` only. Default 0, the bound.

    Raises:
        InputError: another name, numbers out of range, beta or free bits with another objective.

    >>> type(objective("dreg", num_samples=5)).__name__
    'ImportanceWeightedELBO'
    """
    if name == "elbo":
        return MeanFieldELBO(num_samples, kl_weight=beta, free_bits=free_bits)
    if name not in get_args(ObjectiveName):
        raise InputError("objective", expected=f"one of {get_args(ObjectiveName)}", got=repr(name))
    require_count("num_samples", num_samples)
    if beta != 1.0 or free_bits != 0.0:
        raise InputError(f"beta and free bits with {name}", expected="1 and 0", got=f"{beta} and {free_bits}")
    if name in ("iwae", "dreg"):
        gradient: Any = "reparameterised" if name == "iwae" else "doubly-reparameterised"
        return ImportanceWeightedELBO(num_samples, gradient=gradient)
    return (Trace_ELBO if name == "monte-carlo" else TraceGraph_ELBO)(num_particles=num_samples)

"""What a run that goes on from a store must have in common with the one that began it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyro_bdl.errors import InputError
from pyro_bdl.sgmcmc.chains.options import Options
from pyro_bdl.sgmcmc.chains.store import Variable
from pyro_bdl.sgmcmc.kernel import StochasticGradientKernel

TOLERANCE = 1e-4  # relative, of a log joint density: above float32's rounding from one machine to another


def settings_of(
    kernel: StochasticGradientKernel, options: Options, variables: Sequence[Variable], *, seed: int
) -> dict[str, Any]:
    """The model's sites, the sampler and what is kept, as JSON can hold them.

    Args:
        kernel: one of the run's, after its `setup`.
        options: of the run.
        variables: what is kept.
        seed: of the run.
    """
    public = {name: value for name, value in vars(kernel).items() if not name.startswith("_")}
    plain = {n: v for n, v in public.items() if isinstance(v, (bool, int, float, str, type(None)))}
    functions = [v for v in variables if v.name in options.functions]
    schedule, estimator, batches = kernel.schedule, kernel.gradient, kernel.batches
    target = kernel.chain.density.target
    return {
        "kernel": type(kernel).__name__, **plain,
        "step_size": repr(schedule) if hasattr(schedule, "__dataclass_fields__") else type(schedule).__name__,
        "gradient": [type(estimator).__name__, getattr(estimator, "every", None)],
        "data": None if batches is None else [batches.size, batches.batch_size],
        "sites": {n: [*map(int, target.layout.shapes[n])] for n in target.sites},
        "dtype": str(kernel.chain.position.dtype),
        "num_chains": options.num_chains, "warmup_steps": options.warmup_steps,
        "stored": [v.name for v in variables],
        **{f"the function {v.name!r}": [v.dtype, *v.shape] for v in functions},
        "moments": options.moments, "seed": seed,
    }  # fmt: skip


def require_same_settings(path: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Compare the settings with which a store was begun with those of now.

    Raises:
        InputError: some differ; they are named, with what they were.
    """
    differ = [f"{name}={value!r} (was {then.get(name)!r})" for name, value in now.items() if then.get(name) != value]
    if differ:
        raise InputError(
            f"the store {path}", expected="the model and the settings with which it began", got=", ".join(differ),
            remedy="Go on with those, or name another folder",
        )  # fmt: skip


def require_same_model(path: Path, then: float, now: float) -> None:
    """Compare the log joint densities at the same parameters and data.

    Raises:
        InputError: they differ.
    """
    if abs(then - now) > TOLERANCE * max(1.0, abs(then)):
        raise InputError(
            f"the store {path}", expected=f"the model with which it began, of log joint density {then}",
            got=f"one of {now} at the same parameters and data", remedy="Name another folder for another model",
        )  # fmt: skip

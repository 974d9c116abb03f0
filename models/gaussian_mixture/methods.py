"""The three fits of one mixture: EM, SVI with a mean-field guide, SGLD."""

import time
from dataclasses import dataclass

import pyro
import torch
from torch import Tensor

import pyro_bdl as bdl
from models.gaussian_mixture.maximum import maximum
from models.gaussian_mixture.mixture import Mixture, Values


@dataclass(frozen=True)
class Settings:
    """How long, and how."""

    components: int = 3
    """K"""
    starts: int = 10
    """of EM; SVI has the first of them, SGLD starts where the best ends"""
    em_steps: int = 500
    """the most steps of EM; it stops when a step gains 1e-8 of the bound"""
    svi_steps: int = 1000
    """Adam's steps, each on all data with one draw of the guide"""
    learning_rate: float = 0.02
    """Adam's at the start; it falls linearly to 0"""
    svi_draws: int = 500
    """draws of the fitted guide"""
    step_size: float = 1e-3
    """e of SGLD, in squared unconstrained parameters, on all data"""
    updates: int = 2500
    """of each chain"""
    warmup: int = 500
    """of these, not kept"""
    chains: int = 4
    """of SGLD"""


@dataclass(frozen=True, eq=False)
class Method:
    """One fit.

    Attributes:
        name: of the method.
        trace: what it says of itself by step: the bound (EM), the evidence bound (SVI), the log joint density (SGLD).
        draws: values by site, draws in front; of EM one.
        seconds: wall-clock time.
    """

    name: str
    trace: list[list[float]]
    draws: Values
    seconds: float


def by_em(mixture: Mixture, x: Tensor, starts: list[Values], settings: Settings, *, progress: bool) -> list[bdl.EMFit]:
    """EM from each start."""
    return [
        bdl.fit_em(
            mixture, x, start=start, steps=settings.em_steps, progress=progress,
            maximise=lambda responsibilities, _: maximum(mixture, x, responsibilities["z"]),
        )
        for start in starts
    ]  # fmt: skip


def by_svi(mixture: Mixture, x: Tensor, start: Values, settings: Settings, *, seed: int, progress: bool) -> Method:
    """A mean-field Gaussian in unconstrained space over the continuous sites."""
    model = bdl.sum_out(mixture)
    guide = bdl.guides.AutoMeanField(model, init_loc_fn=pyro.infer.autoguide.init_to_value(values=start))
    begin = time.perf_counter()
    fit = bdl.fit_svi(
        model, guide, x, epochs=settings.svi_steps, batch_size=len(x), estimator="plain", seed=seed, progress=progress,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=settings.learning_rate), schedule=lambda t: 1 - t,
    )  # fmt: skip
    seconds = time.perf_counter() - begin
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        draws = [guide(x) for _ in range(settings.svi_draws)]
    stacked = {name: torch.stack([draw[name] for draw in draws]) for name in start}
    return Method("SVI, mean field", [[-loss for loss in fit.losses]], stacked, seconds)


def by_sgld(mixture: Mixture, x: Tensor, start: Values, settings: Settings, *, seed: int, progress: bool) -> Method:
    """Chains on all data, all at once."""
    kernel = bdl.SGLD(mixture.summed, step_size=settings.step_size, init=start)
    begin = time.perf_counter()
    chains = bdl.sample_chains(
        kernel, num_samples=settings.updates, num_chains=settings.chains, model_args=(x,), seed=seed,
        chain_method="vectorized", progress=progress,
    )  # fmt: skip
    seconds = time.perf_counter() - begin
    kept = {name: v[:, settings.warmup :].flatten(0, 1) for name, v in chains.get_samples(group_by_chain=True).items()}
    return Method("SGLD", chains.sample_stats()["lp"].tolist(), kept, seconds)

"""Many chains of a stochastic-gradient sampler: at once, over processes, to disk, and on from where they stopped."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from pyro_bdl.sgmcmc.chains.draws import Chains
from pyro_bdl.sgmcmc.chains.functions import Function
from pyro_bdl.sgmcmc.chains.options import Options
from pyro_bdl.sgmcmc.chains.ranks import Ranks
from pyro_bdl.sgmcmc.chains.run import Run
from pyro_bdl.sgmcmc.chains.walk import ChainMethod
from pyro_bdl.sgmcmc.kernel import StochasticGradientKernel


def sample_chains(
    kernel: StochasticGradientKernel,
    *,
    num_samples: int,
    warmup_steps: int = 0,
    num_chains: int = 4,
    thinning: int | None = None,
    model_args: tuple[Any, ...] = (),
    model_kwargs: Mapping[str, Any] | None = None,
    seed: int | None = None,
    chain_method: ChainMethod = "auto",
    var_names: Sequence[str] | None = None,
    functions: Mapping[str, Function] | None = None,
    moments: bool = False,
    store: str | Path | None = None,
    resume: bool = False,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> Chains:
    """Draw many chains, all at once where that is quicker, into memory or into a store on disk.

    A chain's draws depend on the seed and on its number alone: not on how many other chains there are, nor (but for
    rounding) on whether all go through the model at once by `torch.vmap` or one after another. Each has its own start,
    its own order of the data and its own noise.

    Under `torchrun` the chains are spread over the processes, all into one store.

    Args:
        kernel: `SGLD` or another of this package's, not yet run; it is left as it is. Its data must be tensors, or the
            model's own.
        num_samples: draws that are kept of each chain.
        warmup_steps: draws before them that are not kept.
        num_chains: how many chains. Default 4, as many as R-hat wants at least.
        thinning: updates per draw. Default: the kernel's.
        model_args: positional arguments of the model, after the tensors of a batch.
        model_kwargs: its keyword arguments.
        seed: of all random numbers. Default: from torch's generator, so that `pyro.set_rng_seed` decides it.
        chain_method: "vectorized": all chains at once; "sequential": one after another, in turns; "auto": the quicker
            of the two by a trial (they differ by rounding, so name one for the same bits each time), and one after
            another, with a warning, where the model does not go through `torch.vmap`: it draws a batch of its own,
            branches on a value, or changes a module's buffers.
        var_names: the sites to keep. Default: all.
        functions: what else to keep of each draw, {"f": (network, x)}: what the Pyro program `network(x)` returns, a
            tensor that the sites alone decide, so that a large network's weights need not be kept.
        moments: also keep each site's running mean and variance, by chain, of all sites.
        store: a folder for the draws, in Zarr's format, which ArviZ opens while it grows (`from_chains`). Draws then
            are not kept in memory. SIGINT and SIGTERM end the run after the draws so far are saved; without a store
            they are lost.
        resume: go on from the store, if it is there, exactly as if there had been no stop; also to get more samples.
        device: where draws are kept that are not in a store.
        progress: show a bar with step size, log joint density and acceptance.

    Raises:
        InputError: an argument out of its range; a store that is there already, holds something else or belongs to
            another model or other settings; more processes than chains.
        UnsupportedModelError: see the kernel; or "vectorized" with a model that cannot be; a function that draws random
            numbers, or that `torch.vmap` cannot do where all chains are drawn at once.
        NumericalError: a density or an update that is not finite: the site, the chain and the step are named. The store
            has the draws up to the last save, and can be read.
        CorruptFileError: a store that is damaged.

    >>> import pyro, pyro_bdl as bdl, pyro.distributions as dist
    >>> x, y = torch.randn(100), torch.randn(100)
    >>> def model(x, y):
    ...     slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    ...     with pyro.plate("data", size=100, subsample_size=len(x)):
    ...         pyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)
    >>> kernel = bdl.SGLD(model, step_size=1e-3, data=(x, y), batch_size=10)
    >>> chains = bdl.sample_chains(kernel, num_samples=20, num_chains=8, progress=False)
    >>> chains.get_samples(group_by_chain=True)["slope"].shape
    torch.Size([8, 20])
    """
    with closing(Ranks()) as ranks:
        options = Options(
            num_samples=num_samples, warmup_steps=warmup_steps, num_chains=num_chains, thinning=thinning,
            model_args=tuple(model_args), model_kwargs=dict(model_kwargs or {}), seed=seed, chain_method=chain_method,
            var_names=var_names, functions=dict(functions or {}), moments=moments, store=store, resume=resume,
            device=device, progress=progress,
        )  # fmt: skip
        with closing(Run(kernel, options, ranks)) as run:
            return run.go()

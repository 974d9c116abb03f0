"""From Pyro to ArviZ, with the parameters of ArviZ's own `from_numpyro` and `from_numpyro_svi`."""

import os
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from pyro_bdl.diagnostics.arrays import as_numpy
from pyro_bdl.diagnostics.container import Container, Dims, from_arrays, from_datatree
from pyro_bdl.diagnostics.conversion import Collector, Functions
from pyro_bdl.diagnostics.draws import each_guide_draw, each_mcmc_draw, mcmc_data, mcmc_draws, sampler_statistics
from pyro_bdl.errors import InputError


def from_pyro(
    posterior: Any,
    *,
    var_names: Sequence[str] | None = None,
    deterministic: bool | Sequence[str] = False,
    functions: Functions | None = None,
    log_likelihood: bool | Sequence[str] | Mapping[str, Any] = False,
    prior: Mapping[str, Any] | None = None,
    posterior_predictive: Mapping[str, Any] | None = None,
    predictions: Mapping[str, Any] | None = None,
    constant_data: Mapping[str, Any] | None = None,
    predictions_constant_data: Mapping[str, Any] | None = None,
    coords: Mapping[str, Any] | None = None,
    dims: Dims | None = None,
    pred_dims: Dims | None = None,
    index_origin: int | None = None,
    thin: int = 1,
    model_args: tuple[Any, ...] | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    batch_size: int | None = 1024,
    data_plate: str | None = None,
    progress: bool = False,
    container: Container | None = None,
) -> Any:
    """The result of Markov chain Monte Carlo in Pyro, for ArviZ.

    Args:
        posterior: a `pyro.infer.MCMC` that has run, with HMC, NUTS or any other kernel.
        var_names: the latent sites to keep; None for all. A large network's weights may be left out: they are still
            used for functions and for the log-likelihood.
        deterministic: keep the values of `pyro.deterministic` sites too; True for all, or their names.
        functions: posterior variables in function space, {"f": (network, x)}: what the Pyro program `network(x)`
            returns under each draw. Weights can be permuted without changing the network, so R-hat and effective sample
            sizes mean something for its outputs rather than for them.
        log_likelihood: compute the pointwise log-likelihood of all observed sites (True) or those named, for `loo` and
            `compare`; or arrays of it. It takes a run of the model over the data for each draw.
        prior: draws from the prior by name, (S, ...), as `pyro.infer.Predictive` makes them; names that the posterior
            does not have go into `prior_predictive`.
        posterior_predictive: arrays by name, (chain * draw, ...) or (chain, draw, ...).
        predictions: likewise, for new inputs.
        constant_data: inputs and other constants to keep, by name.
        predictions_constant_data: likewise, for `predictions`.
        coords: values of the coordinates by the name of their dimension.
        dims: names of the dimensions of each variable, without chain and draw. The default is the names of the plates
            around it, and `f_point`, `f_output` for a function "f".
        pred_dims: the same for `predictions`, which may have other lengths; ArviZ's default names otherwise.
        index_origin: the first value of default coordinates; ArviZ's own default, 0.
        thin: keep every thin-th draw only; arrays that are handed in belong to the draws kept.
        model_args: data to call the model with; the default is what the sampler ran on, tensors if not a loader.
        model_kwargs: keyword arguments likewise.
        batch_size: the most data points to run at once; None for all.
        data_plate: the plate over data points, where a model has more than one that could be it.
        progress: show bars.
        container: "inference_data" (ArviZ 0.23) or "datatree" (ArviZ 1.x); the default is what is installed.

    Returns:
        `arviz.InferenceData` or `xarray.DataTree` with those of the groups posterior, sample_stats, log_likelihood,
        observed_data, prior, prior_predictive, posterior_predictive, predictions, constant_data and
        predictions_constant_data that there is something for.

    Raises:
        InputError: the sampler has not run, a name is unknown, a shape does not fit, or a latent site of the model has
            no draws.
        UnsupportedModelError: the data points of the model depend on the batch that they are in.
        NumericalError: a log-likelihood is NaN.

    >>> import pyro, pyro.distributions as dist, torch
    >>> from pyro.infer import MCMC, NUTS
    >>> def model(x, y):
    ...     slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)
    >>> mcmc = MCMC(NUTS(model), num_samples=20, warmup_steps=20, disable_progbar=True)
    >>> mcmc.run(torch.arange(3.0), torch.arange(3.0))
    >>> data = from_pyro(mcmc, log_likelihood=True, container="datatree")
    >>> dict(data["log_likelihood"].sizes)
    {'chain': 1, 'draw': 20, 'data': 3}
    """
    if not isinstance(thin, int) or thin < 1:
        raise InputError("thin", expected="a positive integer", got=repr(thin))
    every = mcmc_draws(posterior)
    stats, numbers = sampler_statistics(posterior, next(iter(every.values())).shape[1])
    draws = {name: value[:, ::thin] for name, value in every.items()}
    chains, length = next(iter(draws.values())).shape[:2]
    collector = Collector(
        draws=each_mcmc_draw(draws),
        stacked=draws,
        chains=chains,
        length=length,
        model=getattr(getattr(posterior, "kernel", None), "model", None),
        args=mcmc_data(posterior) if model_args is None else tuple(model_args),
        kwargs=(getattr(posterior, "_kwargs", None) or {}) if model_kwargs is None else model_kwargs,
        all_latents=False,
        batch_size=batch_size,
        data_plate=data_plate,
        progress=progress,
    )
    collector.groups["sample_stats"] = {name: value[:, ::thin] for name, value in stats.items()}
    return _finish(
        collector,
        attrs={"inference_kind": "mcmc", "kernel": type(getattr(posterior, "kernel", None)).__name__, **numbers},
        var_names=var_names,
        deterministic=deterministic,
        functions=functions,
        log_likelihood=log_likelihood,
        prior=prior,
        posterior_predictive=posterior_predictive,
        predictions=predictions,
        constant_data=constant_data,
        predictions_constant_data=predictions_constant_data,
        coords=coords,
        dims=dims,
        pred_dims=pred_dims,
        index_origin=index_origin,
        container=container,
    )


def from_pyro_svi(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *,
    num_samples: int = 1000,
    model_args: tuple[Any, ...] = (),
    model_kwargs: Mapping[str, Any] | None = None,
    seed: int | None = None,
    var_names: Sequence[str] | None = None,
    deterministic: bool | Sequence[str] = False,
    functions: Functions | None = None,
    log_likelihood: bool | Sequence[str] | Mapping[str, Any] = False,
    prior: Mapping[str, Any] | None = None,
    posterior_predictive: Mapping[str, Any] | None = None,
    predictions: Mapping[str, Any] | None = None,
    constant_data: Mapping[str, Any] | None = None,
    predictions_constant_data: Mapping[str, Any] | None = None,
    coords: Mapping[str, Any] | None = None,
    dims: Dims | None = None,
    pred_dims: Dims | None = None,
    index_origin: int | None = None,
    batch_size: int | None = 1024,
    data_plate: str | None = None,
    progress: bool = False,
    container: Container | None = None,
) -> Any:
    """A fitted guide, for ArviZ: independent draws from it, as one chain.

    Args:
        model: the Pyro model that the guide was fitted to.
        guide: any Pyro guide; one that draws weights where they are used gives ordinary draws of them.
        num_samples: how many draws. 1,000 put the Monte Carlo error of a mean at 3% of the standard deviation.
        model_args: the data, as the model and the guide are called with: all of them, not one batch.
        model_kwargs: keyword arguments likewise.
        seed: draw with this seed and leave the caller's random state as it was.

    The other arguments are those of `from_pyro`; arrays that are handed in, such as `posterior_predictive`, have one
    value for each of these draws, in their order. Only what is asked for is kept of a draw, so that a network of many
    weights takes no memory for them with `var_names=[]`.

    Returns:
        As `from_pyro`, without sample_stats.

    Raises:
        InputError: the guide leaves out a latent site of the model, or as for `from_pyro`.
        UnsupportedModelError: as for `from_pyro`.
        NumericalError: as for `from_pyro`.

    >>> import pyro, pyro.distributions as dist, torch
    >>> def model(x, y):
    ...     slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)
    >>> def guide(x, y):
    ...     pyro.sample("slope", dist.Normal(1.0, 0.4))
    >>> x = torch.arange(3.0)
    >>> data = from_pyro_svi(model, guide, model_args=(x, x), num_samples=50, container="datatree")
    >>> dict(data["posterior"].sizes)
    {'chain': 1, 'draw': 50}
    """
    collector = Collector(
        draws=each_guide_draw(guide, *model_args, num_samples=num_samples, kwargs=model_kwargs, seed=seed),
        stacked=None,
        chains=1,
        length=num_samples,
        model=model,
        args=tuple(model_args),
        kwargs=model_kwargs or {},
        all_latents=True,
        batch_size=batch_size,
        data_plate=data_plate,
        progress=progress,
    )
    return _finish(
        collector,
        attrs={"inference_kind": "svi"},
        var_names=var_names,
        deterministic=deterministic,
        functions=functions,
        log_likelihood=log_likelihood,
        prior=prior,
        posterior_predictive=posterior_predictive,
        predictions=predictions,
        constant_data=constant_data,
        predictions_constant_data=predictions_constant_data,
        coords=coords,
        dims=dims,
        pred_dims=pred_dims,
        index_origin=index_origin,
        container=container,
    )


def from_chains(chains: Any, *, container: Container | None = None) -> Any:
    """Draws of `sample_chains` for ArviZ, with what its functions returned and the sampler's records.

    Args:
        chains: the result, or the folder of its store, which may still grow: then the draws so far are seen, and read
            from disk as they are needed.
        container: see `from_pyro`.

    Returns:
        `arviz.InferenceData` or `xarray.DataTree` with the groups posterior and sample_stats. For a log-likelihood and
        function space afterwards there is `from_pyro`, which takes the result, too.

    Raises:
        InputError: there is no such store, or it has no draws yet.

    >>> import pyro, pyro_bdl as bdl, pyro.distributions as dist
    >>> kernel = bdl.SGLD(lambda: pyro.sample("w", dist.Normal(0.0, 1.0)), step_size=1e-2)
    >>> chains = bdl.sample_chains(kernel, num_samples=20, num_chains=4, progress=False)
    >>> dict(bdl.from_chains(chains, container="datatree")["posterior"].sizes)
    {'chain': 4, 'draw': 20}
    """
    path = chains if isinstance(chains, (str, os.PathLike)) else None if chains.store is None else chains.store.path
    if path is None:
        draws = {**chains.get_samples(group_by_chain=True), **chains.get_functions(group_by_chain=True)}
        groups = {"posterior": draws, "sample_stats": chains.sample_stats()}
        arrays = {group: {name: as_numpy(value) for name, value in of.items()} for group, of in groups.items()}
        library = {"inference_library": "pyro-ppl", "modeling_interface": "pyro_bdl"}
        return from_arrays(arrays, attrs={**library, "kernel": type(chains.kernel).__name__}, container=container)
    import xarray

    try:
        tree = xarray.open_datatree(path, engine="zarr", consolidated=True)
        if not tree["posterior"].sizes["draw"]:
            raise ValueError("none yet, as it is in its warm-up")
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"the store {path}", expected="draws of sample_chains", got=str(error),
            remedy="Wait for its first draws, if it was begun just now",
        ) from error  # fmt: skip
    return from_datatree(tree, container=container)


def _finish(
    collector: Collector,
    *,
    attrs: dict[str, Any],
    var_names: Sequence[str] | None,
    deterministic: bool | Sequence[str],
    functions: Functions | None,
    log_likelihood: bool | Sequence[str] | Mapping[str, Any],
    prior: Mapping[str, Any] | None,
    posterior_predictive: Mapping[str, Any] | None,
    predictions: Mapping[str, Any] | None,
    constant_data: Mapping[str, Any] | None,
    predictions_constant_data: Mapping[str, Any] | None,
    coords: Mapping[str, Any] | None,
    dims: Dims | None,
    pred_dims: Dims | None,
    index_origin: int | None,
    container: Container | None,
) -> Any:
    collector.posterior(
        var_names=var_names, deterministic=deterministic, functions=functions or {}, log_likelihood=log_likelihood
    )
    if prior is not None:
        collector.prior(prior)
    for name, values in {"posterior_predictive": posterior_predictive, "predictions": predictions}.items():
        if values is not None:
            collector.groups[name] = collector.predictive(name, values)
    for name, values in {
        "constant_data": constant_data,
        "predictions_constant_data": predictions_constant_data,
    }.items():
        if values is not None:
            collector.groups[name] = {key: as_numpy(value) for key, value in values.items()}
    library = {"inference_library": "pyro-ppl", "inference_library_version": version("pyro-ppl")}
    return from_arrays(
        collector.groups,
        coords=coords,
        dims=collector.named_dims(dims),
        pred_dims=pred_dims,
        index_origin=index_origin,
        attrs={**library, "modeling_interface": "pyro_bdl", **attrs},
        container=container,
    )

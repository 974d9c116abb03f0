"""From Pyro to ArviZ: the only file that knows ArviZ.

ArviZ 0.23 keeps its groups in an `InferenceData`, ArviZ 1.x in an `xarray.DataTree`, and the latter has no converter
for Pyro. Both are built here, from the same dictionaries of NumPy arrays, with the parameters of ArviZ's own
`from_numpyro` and `from_numpyro_svi`.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from pyro_bdl.diagnostics.arrays import as_numpy
from pyro_bdl.diagnostics.conversion import Collector, Functions, Groups
from pyro_bdl.diagnostics.draws import each_guide_draw, each_mcmc_draw, mcmc_data, mcmc_draws, sampler_statistics
from pyro_bdl.errors import InputError

Container = Literal["inference_data", "datatree"]
Dims = Mapping[str, Sequence[str]]


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


def from_arrays(
    groups: Groups,
    *,
    coords: Mapping[str, Any] | None = None,
    dims: Mapping[str, Sequence[str | None]] | None = None,
    pred_dims: Mapping[str, Sequence[str | None]] | None = None,
    index_origin: int | None = None,
    attrs: Mapping[str, Any] | None = None,
    container: Container | None = None,
) -> Any:
    """Dictionaries of NumPy arrays, one a group, as ArviZ's data structure.

    Args:
        groups: arrays by the name of the variable, by the name of the group; (chain, draw, ...) except for data.
        coords: see `from_pyro`.
        dims: see `from_pyro`.
        pred_dims: see `from_pyro`.
        index_origin: see `from_pyro`.
        attrs: attributes of the posterior and of the whole.
        container: see `from_pyro`.
    """
    container = container or _installed_container()
    filled = {name: group for name, group in groups.items() if group}
    attributes = dict(attrs or {})
    options: dict[str, Any] = {
        "coords": dict(coords or {}),
        "dims": {name: list(names) for name, names in (dims or {}).items()},
        "pred_dims": {name: list(names) for name, names in (pred_dims or {}).items()},
        "pred_coords": dict(coords or {}),
        "index_origin": index_origin,
    }
    if container == "inference_data":
        with warnings.catch_warnings():  # ArviZ 0.23 announces the migration to 1.x when it is imported, once a day
            warnings.filterwarnings("ignore", message="\\s*ArviZ is undergoing", category=FutureWarning)
            import arviz
        return arviz.from_dict(**{**filled, **options}, attrs=attributes, posterior_attrs=dict(attributes))
    if container == "datatree":
        import arviz_base

        attributes_by_group = {"/": attributes} | ({"posterior": dict(attributes)} if "posterior" in filled else {})
        return arviz_base.from_dict(filled, **options, attrs=attributes_by_group)
    raise InputError("container", expected='"inference_data", "datatree" or None', got=repr(container))


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


def _installed_container() -> Container:
    try:
        return "inference_data" if int(version("arviz").split(".")[0]) < 1 else "datatree"
    except PackageNotFoundError:
        version("arviz-base")  # raises, naming the package, where there is no ArviZ at all
        return "datatree"

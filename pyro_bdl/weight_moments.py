"""Mean and variance of a network's weights under a guide."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_bdl.bayesian_module import BayesianModule
from pyro_bdl.compression.posterior import WeightPosterior
from pyro_bdl.errors import InputError, UnsupportedModelError
from pyro_bdl.estimators import DeferredDraw, local_reparameterization
from pyro_bdl.estimators.estimator import Estimator
from pyro_bdl.estimators.passes import dry_run

DRAWS = 256

Moments = dict[str, tuple[Tensor, Tensor]]


def weight_posterior(net: nn.Module, guide: Any, *args: Any, **kwargs: Any) -> WeightPosterior:
    r"""The mean and variance of each weight of a network under a guide, whatever the hierarchy of its prior.

    The guide's Gaussian and log-normal sites are answered with deferred draws and the model runs up to the network;
    what then stands in the place of each parameter tells its law. For a product of independent factors (weight, node
    scale, a scale common to the layer) the moments are exact, with

    .. math:: E[zw] = E[z] E[w], \qquad V[zw] = V[z] (E[w]^2 + V[w]) + E[z]^2 V[w]

    (Louizos, Ullrich & Welling 2017, eq. 11 and appendix) and, for a log-normal factor,
    :math:`E[z] = e^{\mu + \sigma^2 / 2}`, :math:`V[z] = E[z]^2 (e^{\sigma^2} - 1)`.

    A weight of another law (the scales of `RegularizedHorseshoe`, which are no product; Pyro's `AutoDiagonalNormal` or
    a guide with correlations) changes from draw to draw. Then K = 256 draws t are taken, and

    .. math:: E[w] = \overline{E[w \mid t]}, \qquad V[w] = \overline{V[w \mid t]} + V_t[E[w \mid t]]

    (law of total variance): the mean is off by at most 1/16 of the weight's standard deviation (one standard error),
    the deviation by about 4% for a Gaussian. Correlations are not told. The state of the random generators is restored.

    Args:
        net: the network, or the `BayesianModule` around it.
        guide: a fitted autoguide (`AutoMeanField`, or Pyro's) of a model that uses the network; for a guide written by
            hand, `local_reparameterization(guide, model=model)`.
        args, kwargs: the model's, e.g. one batch of inputs.

    Returns:
        Moments by the network's parameter names; variance 0 for parameters that are not random. Nothing is changed.

    Raises:
        InputError: a guide that does not tell its model, or a model that does not use the network.
        UnsupportedModelError: a posterior without scales: point values only.

    >>> import pyro_bdl as bdl
    >>> net = nn.Linear(2, 1)
    >>> guide = bdl.guides.AutoMeanField(bdl.BayesianModule(net), init_scale=0.1)
    >>> weight_posterior(net, guide, torch.zeros(1, 2)).variance["bias"]
    tensor([0.0100])
    """
    found = weight_moments(net, guide, *args, **kwargs)
    if not found.has_scales:
        raise UnsupportedModelError(
            "the guide", expected="a posterior of weights with scales", got="point values",
            remedy="Fit guides.AutoMeanField; a point estimate says nothing about what can be left out",
        )  # fmt: skip
    return found


def weight_moments(net: nn.Module, guide: Any, *args: Any, **kwargs: Any) -> WeightPosterior:
    """`weight_posterior` that takes point values, too, as Pyro's `AutoDelta` fits them: all variances are then 0.

    >>> from pyro.infer.autoguide import AutoDelta
    >>> import pyro_bdl as bdl
    >>> net = nn.Linear(2, 1)
    >>> guide = AutoDelta(bdl.BayesianModule(net), init_loc_fn=bdl.guides.init_to_network)
    >>> _ = guide(torch.zeros(1, 2))
    >>> weight_moments(net, guide, torch.zeros(1, 2)).variance["bias"]
    tensor([0.])
    """
    net = net.net if isinstance(net, BayesianModule) else net
    estimator = _estimator(guide)
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices), torch.no_grad(), _unchanged(net):
        found = _of_one_pass(net, estimator, args, kwargs)
        again = _of_one_pass(net, estimator, args, kwargs)
        if any(not torch.equal(*pair) for name in found for pair in zip(found[name], again[name], strict=True)):
            found = _of_many_passes(lambda: _of_one_pass(net, estimator, args, kwargs))
    return WeightPosterior({n: mean for n, (mean, _) in found.items()}, {n: v for n, (_, v) in found.items()})


def _estimator(guide: Any) -> Estimator:
    estimator = guide if isinstance(guide, Estimator) else local_reparameterization(guide)
    if estimator.model is None:
        raise InputError(
            "guide", expected="a guide that knows its model (an AutoGuide)", got=type(guide).__name__,
            remedy="Hand over local_reparameterization(guide, model=model)",
        )  # fmt: skip
    # Another one than the caller's, whose report and findings stay as they are; it need not look for second uses.
    own = local_reparameterization(estimator.guide, model=estimator.model)
    own.examined = True
    return own


class _Reached(Exception):
    """The network is about to run, with its weights in place."""


def _of_one_pass(net: nn.Module, estimator: Estimator, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Moments:
    """Moments of what stands in the place of each parameter, given what was drawn as a whole in this pass."""
    own = dict(net.named_parameters())
    found: Moments = {}

    def look(module: nn.Module, _: Any) -> None:
        found.update({name: _moments(value) for name, value in _in_place_of(own, module).items()})
        raise _Reached

    model: Callable[..., Any] = estimator.model  # type: ignore[assignment]
    with poutine.block(), dry_run():
        trace = poutine.trace(estimator).get_trace(*args, **kwargs)
        hook = net.register_forward_pre_hook(look)
        try:
            poutine.replay(model, trace=trace)(*args, **kwargs)
        except _Reached:
            pass
        finally:
            hook.remove()
    if not found:
        raise InputError("net", expected="the network that the guide's model uses", got="one that it does not call")
    return found


def _of_many_passes(one_pass: Callable[[], Moments]) -> Moments:
    """The law of total variance over `DRAWS` passes, summed as Welford does."""
    mean: dict[str, Tensor] = {}
    spread: dict[str, Tensor] = {}
    variance: dict[str, Tensor] = {}
    for k in range(1, DRAWS + 1):
        for name, (m, v) in one_pass().items():
            if k == 1:
                mean[name], spread[name], variance[name] = (torch.zeros_like(m, dtype=torch.float64) for _ in range(3))
            difference = m.double() - mean[name]
            mean[name] += difference / k
            spread[name] += difference * (m.double() - mean[name])
            variance[name] += (v.double() - variance[name]) / k
    dtypes = {name: v.dtype for name, (v, _) in one_pass().items()}
    return {n: (mean[n].to(t), (variance[n] + spread[n] / (DRAWS - 1)).to(t)) for n, t in dtypes.items()}


def _in_place_of(own: dict[str, nn.Parameter], net: nn.Module) -> dict[str, Tensor]:
    """What stands in the place of each parameter at this moment."""
    places = {name: name.rpartition(".") for name in own}
    values = {name: net.get_submodule(path)._parameters[leaf] for name, (path, _, leaf) in places.items()}
    return {name: value for name, value in values.items() if value is not None}


def _moments(value: Tensor) -> tuple[Tensor, Tensor]:
    if not isinstance(value, DeferredDraw):
        return value.detach().clone(), torch.zeros_like(value)
    mean, variance = _of_product(value)
    return mean.to(value.dtype), variance.to(value.dtype)


def _of_product(draw: DeferredDraw) -> tuple[Tensor, Tensor]:
    """Mean and variance of a draw times its scale, whose own scale may be common to all, in float64."""
    mean, variance = draw.loc.detach().double(), draw.variance.detach().double()
    if draw.log_normal:
        mean = (mean + 0.5 * variance).exp()
        variance = mean.square() * variance.expm1()
    if draw.scale is None:
        return mean, variance
    scale, scale_variance = _of_product(draw.scale)
    return scale * mean, scale_variance * (mean.square() + variance) + scale.square() * variance


@contextmanager
def _unchanged(net: nn.Module) -> Iterator[None]:
    """Evaluation mode, in which nobody warns of batch statistics; afterwards all is in its own mode again.

    So is which parameters are frozen: Pyro's store unfreezes what it is handed.
    """
    modes = [(module, module.training) for module in net.modules()]
    trained = [(parameter, parameter.requires_grad) for parameter in net.parameters()]
    net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in trained:
            parameter.requires_grad_(requires_grad)

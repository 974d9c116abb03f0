"""A linear model made deep: a network in the place of its linear predictor."""

import copy
import inspect
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_bdl.bayesian_module import BayesianModule
from pyro_bdl.errors import InputError
from pyro_bdl.observation.learned_network import LearnedNetwork
from pyro_bdl.observation.predictor_site import WithPredictor

Program = Callable[..., Any]


def deepify(
    model: Program,
    network: Program,
    *,
    predictor: str = "network",
    inputs: Callable[..., Any] | None = None,
) -> Any:
    r"""The same conditional model with a network in the place of its linear predictor.

    .. math:: p(y \mid x^\top w) \to p(y \mid f(x; w))

    What surrounds the predictor stays: the likelihood, its noise or baseline, their priors, the data plate. The model
    handed over is left as it was. Two kinds of model:

    - **An object** with the predictor in an attribute: `Regressor`, `BinaryClassifier`, `PoissonRegressor`,
      `SurvivalRegressor`, `PartialLikelihood`, or a class of your own (a `PyroModule`, say). The result is a copy of
      it with the network wherever the predictor was. Its learned parameters are its own, but for those that Pyro's
      store keeps by their names (`PyroParam`): fit these within `pyro.get_param_store().scope()`.
    - **A Pyro program** that says `eta = pyro.deterministic("eta", x @ w)`: the network's output takes the place of
      that value, and latent sites that reached the data through it alone (w, and a prior's scale above w) are gone.
      The result is such a program again, so that further predictors can be replaced.

    Args:
        model: a Pyro program.
        network: a `BayesianModule`, another Pyro program, or a plain `torch.nn.Module`, whose parameters are then
            learned (`pyro.param`). It is called as the predictor was; for a site, with `inputs`.
        predictor: the name of the attribute (`"head.linear"` for one further down) or of the deterministic site.
            Default "network", the attribute of the models here.
        inputs: for a site: what the network sees, from the program's arguments. Default: the first of them.

    Returns:
        For an attribute an object of the same class, for a site a callable with the same arguments.

    Raises:
        InputError: no such site (at the first call); a network that does not take the linear predictor's inputs, or
            gives another shape than it (in the place of a `torch.nn.Linear` at once, else at the first call).

    >>> import pyro, pyro.distributions as dist, pyro_bdl as bdl
    >>> linear = bdl.PoissonRegressor(BayesianModule(nn.Linear(4, 1)))
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    >>> deep = deepify(linear, BayesianModule(net))
    >>> list(pyro.poutine.trace(deep).get_trace(torch.randn(5, 4)).stochastic_nodes)
    ['0.weight', '0.bias', '2.weight', '2.bias', 'data', 'y']
    >>> def logistic(x, y):
    ...     w = pyro.sample("w", dist.Normal(torch.zeros(4), 1.0).to_event(1))
    ...     eta = pyro.deterministic("eta", x @ w)
    ...     with pyro.plate("data", len(x)):
    ...         return pyro.sample("y", dist.Bernoulli(logits=eta), obs=y)
    >>> deep = deepify(logistic, BayesianModule(nn.Sequential(net, nn.Flatten(0))), predictor="eta")
    >>> list(pyro.poutine.trace(deep).get_trace(torch.randn(5, 4), torch.ones(5)).stochastic_nodes)
    ['0.0.weight', '0.0.bias', '0.2.weight', '0.2.bias', 'data']
    """
    if not callable(network):
        raise InputError("network", expected="a network or a Pyro program", got=type(network).__name__)
    program: Any = LearnedNetwork(network) if isinstance(network, nn.Module) and _is_plain(network) else network
    if not callable(model):
        raise InputError("the model", expected="a Pyro program", got=type(model).__name__)
    try:
        old = attrgetter(predictor)(model)
    except AttributeError:
        old = None
    if not callable(old):
        return WithPredictor(model, program, predictor, inputs or _first_argument(model))
    if inputs is not None:
        raise InputError("inputs", expected="None for an object, which calls the network itself", got=repr(inputs))
    _check_shapes(old, program)
    try:
        return copy.deepcopy(model, {id(old): program})
    except RuntimeError as error:  # tensors that are results of a computation cannot be copied
        raise InputError("the model", expected="an object that can be copied", got=str(error)) from error


def _first_argument(model: Program) -> Program:
    """What a program is called with first, by position or by name."""

    def first(*args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(model).bind(*args, **kwargs).args
        if not given:
            raise InputError("the arguments", expected="what the network sees, first", got=f"{sorted(kwargs)}",
                             remedy="Say inputs=, or hand them over by position")  # fmt: skip
        return given[0]

    return first


def _is_plain(network: Any) -> bool:
    """Whether it is a module in which nothing is a Pyro program."""
    pyro_modules = (BayesianModule, LearnedNetwork, PyroModule)
    return isinstance(network, nn.Module) and not any(isinstance(module, pyro_modules) for module in network.modules())


def _check_shapes(old: Any, program: Any) -> None:
    """Run both on two rows of zeros, where the old one is known to take vectors of some length."""
    linear, network = _module_in(old), _module_in(program)
    if not isinstance(linear, nn.Linear) or network is None:
        return
    x = linear.weight.new_zeros(2, linear.in_features)
    rows, columns = expected = (2, linear.out_features)
    got = _output_shape(network, x)
    if got != expected and not (columns == 1 and got == (rows,)):
        raise InputError("the network's output", expected=f"shape {expected} for inputs {tuple(x.shape)}", got=f"{got}")


def _module_in(program: Any) -> nn.Module | None:
    """The plain module that a program runs, if it is known."""
    if isinstance(program, (BayesianModule, LearnedNetwork)):
        return program.net
    return program if _is_plain(program) else None


@torch.no_grad()
def _output_shape(network: nn.Module, x: Tensor) -> tuple[int, ...]:
    try:
        return tuple(copy.deepcopy(network).eval()(x).shape)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise InputError(
            "the network", expected=f"a module that takes inputs {tuple(x.shape)}", got=str(error)
        ) from error

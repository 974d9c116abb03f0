"""Exact answers about a program's discrete sites, by enumeration."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_bdl.errors import InputError
from pyro_bdl.exact import Factors, factors_of
from pyro_bdl.graph.names import require_names
from pyro_bdl.record import sample_sites

Program = Callable[..., Any]
Values = Mapping[str, Tensor | float]


def query(model: Program, of: str | Iterable[str], *, given: Values | None = None) -> Tensor:
    r"""The exact law of some discrete sites given values of others.

    .. math:: p(x_{of} \mid x_{given}) = \frac{\sum_{rest} p(x)}{\sum_{of, rest} p(x)}

    by Pyro's enumeration and tensor variable elimination, see `pyro_bdl.exact`. Observed sites of the program keep
    their data. Pyro's `Bernoulli` and `Categorical` never give a probability below the smallest relative step of
    the number type (1e-7, or 2e-16 in double precision), so exact zeros in tables are that.

    Args:
        model: a Pyro program without arguments (`functools.partial(model, x)` for one with).
        of: a name or names of latent discrete sites.
        given: values by site. Default none. A continuous latent site must be among them.

    Returns:
        An axis a plate that the sites stand in, then one a site over its values in the order of its support; the
        latter together sum to 1.

    Raises:
        InputError: a name that is not in the model, an observed site or one both asked for and given, a value that is
            no number, outside of a site's support or of another shape, or values that are impossible together.
        UnsupportedModelError: a latent site that is not discrete and not given, and see `factors_of`.

    >>> import pyro.distributions as dist
    >>> def model():
    ...     rain = pyro.sample("rain", dist.Bernoulli(0.2))
    ...     pyro.sample("wet", dist.Bernoulli(torch.tensor([0.1, 0.9])[rain.long()]))
    >>> query(model, "rain", given={"wet": 1.0})  # 0.2 * 0.9 / (0.8 * 0.1 + 0.2 * 0.9)
    tensor([0.3077, 0.6923])
    """
    sites, given = _sites(model), dict(given or {})
    latent = [name for name, site in sites.items() if not site["is_observed"]]
    names = require_names(of, latent, what="of")
    if not names:
        raise InputError("of", expected="at least one name", got="none")
    both = sorted(set(names) & set(given))
    if both:
        raise InputError("of and given", expected="different sites", got=f"{', '.join(both)} in both")
    return _factors(model, sites, given).marginal(names)


def log_evidence(model: Program, given: Values | None = None) -> Tensor:
    """The log probability, or density, of the given values and of the program's own data, in nats.

    Of a `MarkovField` without given values it is the log of the partition function.

    Args:
        model: a Pyro program without arguments.
        given: values by site. Default none.

    Raises:
        InputError, UnsupportedModelError: as `query`.

    >>> import pyro.distributions as dist
    >>> round(float(log_evidence(lambda: pyro.sample("rain", dist.Bernoulli(0.25)), {"rain": 1.0}).exp()), 6)
    0.25
    """
    return _factors(model, _sites(model), dict(given or {})).log_total()


def _factors(model: Program, sites: Mapping[str, Any], given: Mapping[str, Any]) -> Factors:
    latent = [name for name, site in sites.items() if not site["is_observed"]]
    require_names(given, latent, what="given")
    data = {name: _value(name, sites[name]["fn"], value) for name, value in given.items()}
    factors = factors_of(poutine.condition(model, data=data))
    total = factors.log_total()
    if not bool(total > torch.finfo(total.dtype).min / 2):
        what = "given" if given else "the model"
        raise InputError(what, expected="values that are possible together", got=f"log probability {float(total)}")
    return factors


def _sites(model: Program) -> dict[str, Any]:
    """The sample sites, by a run of which nothing outside takes note."""
    if not callable(model):
        raise InputError("the model", expected="a Pyro program", got=type(model).__name__)
    with torch.random.fork_rng(), torch.no_grad(), pyro.get_param_store().scope(), poutine.block():
        trace: Any = poutine.trace(model).get_trace()
    return {site["name"]: site for site in sample_sites(trace)}


def _value(name: str, fn: Any, value: Tensor | float) -> Tensor:
    """A value as a tensor of the site's shape, inside of its support; checked before it is made an integer."""
    example = fn.sample()
    exact = example.dtype if example.is_floating_point() else torch.float64
    try:
        value = torch.as_tensor(value, dtype=exact, device=example.device)
    except (TypeError, ValueError, RuntimeError) as error:
        expected = "a number or a tensor"
        raise InputError(f'the value of "{name}"', expected=expected, got=f"{value!r} ({error})") from error
    if value.dim() and value.shape != example.shape:
        got = f"shape {tuple(value.shape)}"
        raise InputError(f'the value of "{name}"', expected=f"shape {tuple(example.shape)}", got=got)
    value = value.expand(example.shape)
    inside = fn.support.check(value)
    if not bool(inside.all()):
        bad = value if inside.dim() == 0 else value[~inside][0]
        raise InputError(f'the value of "{name}"', expected=f"a value in {fn.support}", got=str(bad.tolist()))
    return value.to(example.dtype)

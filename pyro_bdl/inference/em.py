"""Expectation maximisation for Pyro models with discrete latent sites."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor
from tqdm import tqdm

from pyro_bdl.errors import InputError, NumericalError
from pyro_bdl.exact import Factors
from pyro_bdl.exact.factors import enumerate_factors
from pyro_bdl.exact.plates import plate_nesting, require_discrete
from pyro_bdl.inference.expectation import Expectation, expect
from pyro_bdl.inference.maximisation import Parameters, climb
from pyro_bdl.number_checks import not_negative, require_count

Values = dict[str, Tensor]
Maximise = Callable[[Mapping[str, Tensor], Values], Mapping[str, Tensor]]


@dataclass(frozen=True, eq=False)
class EMFit:
    """How EM went.

    Attributes:
        bounds: log p(x, theta) in nats, at the start and after each step: the evidence lower bound after each E-step.
        path: the values of all parameters, by name, at each of them.
        responsibilities: the posterior of each discrete site at the end: an axis a plate, then one over its values.
        converged: whether the last step gained no more than the tolerance.
    """

    bounds: list[float]
    path: list[Values]
    responsibilities: Mapping[str, Tensor]
    converged: bool

    @property
    def values(self) -> Values:
        """The parameters at the end, for `pyro.condition` (sites) or `poutine.substitute` (`pyro.param`)."""
        return self.path[-1]


def fit_em(
    model: Callable[..., Any],
    data: Tensor | tuple[Any, ...] = (),
    *,
    start: Mapping[str, Tensor] | None = None,
    maximise: Maximise | None = None,
    steps: int = 200,
    tolerance: float = 1e-8,
    progress: bool = True,
) -> EMFit:
    r"""Fit the continuous sites and parameters of a model by EM, its discrete sites summed over exactly.

    .. math::
        \text{E: } q(z) = p(z \mid x, \theta_t), \qquad
        \text{M: } \theta_{t+1} = \arg\max_\theta \sum_z q(z) \log p(x, z, \theta)

    (Dempster, Laird & Rubin 1977; Bishop 2006, section 9.4.) theta are the model's `pyro.param`s and its continuous
    latent sites: the former get their maximum likelihood, the latter, with their priors, the mode of the posterior in
    their own coordinates. The E-step is exact, by enumeration, so that after it the bound is log p(x, theta), and no
    step lowers that. Without `maximise` the M-step climbs by L-BFGS from theta_t, or along the gradient where that
    leads nowhere (generalised EM: higher is enough).

    Args:
        model: a Pyro model whose discrete latent sites can be enumerated, see `pyro_bdl.exact.factors_of`; all of the
            data at once.
        data: a tensor or a tuple, the model's arguments. Default none.
        start: values of parameters by name. Default, also of those left out: what `pyro.param` starts with, and a draw
            from a site's prior.
        maximise: the M-step in closed form: takes the responsibilities by discrete site, (plates..., values), and the
            present values, and gives values for all parameters. Default: the climb.
        steps: the most steps. Default 200.
        tolerance: the gain of a step, relative to |bound| + 1, at which it is enough. Default 1e-8.
        progress: show a bar.

    Returns:
        EMFit: bounds, path, responsibilities. Pyro's parameter store is left as it was.

    Raises:
        InputError: arguments out of their range; `start` or `maximise` with other names, shapes or numbers outside of
            a site's support; a climb from its boundary; a model without discrete latent sites or without parameters.
        UnsupportedModelError: see `pyro_bdl.exact.factors_of`.
        NumericalError: a density or gradient that is not finite, as where a component without a prior collapses onto a
            point; or a step that lowers the bound, which a maximum cannot.

    >>> import pyro.distributions as dist
    >>> x = torch.cat([torch.randn(50) - 3, torch.randn(50) + 3]).double()
    >>> def model(x):
    ...     loc = pyro.param("loc", torch.tensor([-1.0, 1.0]).double())
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5).double())).long()
    ...         pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)
    >>> fit = fit_em(model, x, progress=False)
    >>> fit.bounds == sorted(fit.bounds), fit.converged
    (True, True)
    """
    require_count("steps", steps)
    not_negative("tolerance", tolerance)
    args = data if isinstance(data, tuple) else (data,)
    with pyro.get_param_store().scope():
        parameters = Parameters.of(model, args)
        values = parameters.start(start or {})
        problem = _Problem(model, args, parameters)
        expectation = problem.expect(values)
        if not expectation.responsibilities:
            raise InputError("the model", expected="at least one discrete latent site", got="none")
        bounds, path, converged = [expectation.bound], [values], False
        for _ in tqdm(range(steps), "EM", unit="step", disable=not progress):
            values = problem.maximise(expectation, values, maximise)
            expectation = problem.expect(values)
            gain = expectation.bound - bounds[-1]
            scale = 1 + abs(bounds[-1])
            if gain < -_rounding(values) * scale:
                who, why = "the climb", "the expected complete log density was higher, up to rounding"
                if maximise is not None:
                    who, why = "`maximise`", "what it gives is no maximum of the expected complete log density"
                raise NumericalError(
                    f"step {len(bounds)}: {who} lowered the bound from {bounds[-1]} to {expectation.bound}: {why}"
                )
            bounds.append(expectation.bound)
            path.append(values)
            if gain <= tolerance * scale:
                converged = True
                break
    return EMFit(bounds, path, expectation.responsibilities, converged)


class _Problem:
    """The model at given values."""

    def __init__(self, model: Callable[..., Any], args: tuple[Any, ...], parameters: Parameters) -> None:
        self.model, self.args, self.parameters = model, args, parameters
        self._nesting: int | None = None

    def factors(self, values: Mapping[str, Tensor]) -> Factors:
        sites = {name: value for name, value in values.items() if name in self.parameters.sites}
        params = {name: value for name, value in values.items() if name not in sites}
        given = poutine.condition(self.model, data=sites)
        given = poutine.substitute(given, data=params) if params else given
        if self._nesting is None:
            self._nesting = plate_nesting(given, self.args, {}, check=require_discrete)
        with poutine.block():
            return enumerate_factors(given, self._nesting, self.args, {})

    def expect(self, values: Mapping[str, Tensor]) -> Expectation:
        return expect(self.factors(values))

    def maximise(self, expectation: Expectation, values: Values, closed_form: Maximise | None) -> Values:
        if closed_form is not None:
            found = closed_form(expectation.responsibilities, dict(values))
            return self.parameters.checked(found, "what maximise gave")
        return climb(lambda new: expectation.complete(self.factors(new)), values, self.parameters)


def _rounding(values: Mapping[str, Tensor]) -> float:
    """How far, relatively, rounding may lower a bound: a sum over the data in the numbers' precision."""
    return 1e3 * max(torch.finfo(value.dtype).eps for value in values.values())

"""Horseshoe priors: half-Cauchy scales, one for each node and one for each layer."""

import math
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_bdl.errors import InputError
from pyro_bdl.priors.independent import positive
from pyro_bdl.priors.node import NodePrior, ScaleProgram
from pyro_bdl.priors.weight import Prior, Weight

HalfCauchyForm = Literal["quadrature", "decomposed"]


class GroupHorseshoe(NodePrior):
    r"""The horseshoe over nodes: a half-Cauchy scale for each node, times one for the layer.

    .. math::
        s \sim C^+(0, \tau_0), \qquad \tilde z_i \sim C^+(0, 1), \qquad \tilde w_{ij} \sim N(0, 1), \qquad
        w_{ij} = s\, \tilde z_i\, \tilde w_{ij}

    (Louizos, Ullrich & Welling 2017, section 4.2). The prior is proper: draws, NUTS and SGLD work too. Under a
    mean-field guide the scales are log-normal, and so are their products and powers: under
    `local_reparameterization` each data point has one draw of :math:`s \tilde z_i`, with s shared by its nodes.

    The half-Cauchy has two forms with the same prior law of the weights.

    - "quadrature": the scale is one half-Cauchy site; its KL is computed by quadrature (`log_normal_half_cauchy_kl`).
    - "decomposed": the square of a half-Cauchy variable is a product (Louizos et al., section 4.2, after Neville,
      Ormerod & Wand 2014), :math:`s^2 = s_a s_b` with :math:`s_a \sim Gamma(1/2, \tau_0^2)` (shape and scale) and
      :math:`s_b \sim InvGamma(1/2, 1)`, both with log-normal posteriors and closed-form KLs.

    The second bound is never the tighter one: forgetting how a scale is split into factors can only lower the KL (data
    processing inequality). At the best split of a scale it is looser by 0.2 nats for a log-scale of deviation 1, by
    1.9 nats for 0.1 and by log 2 more for each halving, as two factors' spreads are paid for. Hence the default.

    Sites of a weight `fc1.weight`: `fc1.weight.global` (1,) and `fc1.weight.local` (nodes,), or each of them as
    `.gamma` and `.inverse_gamma` below these names; `fc1.weight.raw`; and the deterministic `fc1.weight`.

    A fit begins with all scales at one, where the network is the one that was handed over: far out in the tail of s,
    which costs about :math:`-\log \tau_0` nats a layer, where near its mode each node would have to pay as much.

    Args:
        global_scale: tau_0. Default 1e-5, as recalled from the experiments of Louizos et al.: small, so that the prior
            expects next to no node to be needed and each must be paid for by the data.
        half_cauchy: "quadrature" or "decomposed". Default "quadrature": the tighter bound with half the scale sites.
        rest: the prior of biases and other vectors. Default N(0, 1).

    Raises:
        InputError: a scale that is not a positive number, or whose square the dtype of the weights cannot hold; another
            word for `half_cauchy`.

    >>> GroupHorseshoe(global_scale=0.1)
    GroupHorseshoe(global_scale=0.1, half_cauchy='quadrature', rest=Gaussian(scale=1.0, fan_in=False))
    """

    def __init__(
        self, *, global_scale: float = 1e-5, half_cauchy: HalfCauchyForm = "quadrature", rest: Prior | None = None
    ) -> None:
        super().__init__(rest=rest)
        self.global_scale, self.half_cauchy = positive("global_scale", global_scale), _form(half_cauchy)

    def scale(self, weight: Weight, nodes: int) -> tuple[ScaleProgram, float]:
        """Global times local half-Cauchy scales, both beginning at one."""
        whole = half_cauchy(f"{weight.name}.global", 1, self.global_scale, weight, form=self.half_cauchy)
        local = half_cauchy(f"{weight.name}.local", nodes, 1.0, weight, form=self.half_cauchy)
        return lambda: whole() * local(), 1.0

    def __repr__(self) -> str:
        return f"GroupHorseshoe(global_scale={self.global_scale}, half_cauchy={self.half_cauchy!r}, rest={self.rest!r})"


class RegularizedHorseshoe(NodePrior):
    r"""The horseshoe over nodes, with scales that cannot exceed a slab.

    .. math::
        \tau \sim C^+(0, \tau_0), \quad \lambda_i \sim C^+(0, 1), \quad c^2 \sim InvGamma(\nu/2, \nu s^2/2), \quad
        \tilde\lambda_i^2 = \frac{c^2 \lambda_i^2}{c^2 + \tau^2 \lambda_i^2}, \quad
        w_{ij} = \tau \tilde\lambda_i\, \tilde w_{ij}

    (Piironen & Vehtari 2017, eqs. 2.8 and 2.9, here with one lambda for each node). Nodes far from zero have weights
    of scale c instead of an unbounded one: marginally a Student-t slab with nu degrees of freedom and scale s.

    Sites of a weight `fc1.weight`: `fc1.weight.global` (1,), `fc1.weight.local` (nodes,), the square of the slab
    `fc1.weight.slab` (1,), `fc1.weight.raw` and the deterministic `fc1.weight`; the half-Cauchy sites are split as in
    `GroupHorseshoe` with half_cauchy="decomposed". The scale is no product of powers, so under
    `local_reparameterization` it gets one ordinary draw for a batch (`coverage()` says so), while the raw weights are
    drawn for each data point: right, with more variance.

    Args:
        global_scale: tau_0. Default 1e-5, as for `GroupHorseshoe`. With a guess of p0 relevant nodes of p, Piironen &
            Vehtari (eq. 3.12) take p0 / (p - p0) times the noise's deviation over the root of N.
        slab_scale: s. Default 2: a used weight of inputs of order one is seldom larger.
        slab_degrees_of_freedom: nu. Default 4: a finite variance, and tails that still let a node be large.
        half_cauchy: as for `GroupHorseshoe`.
        rest: the prior of biases and other vectors. Default N(0, 1).

    Raises:
        InputError: a number that is not positive, or whose square the dtype of the weights cannot hold; another word
            for `half_cauchy`.

    >>> RegularizedHorseshoe(slab_scale=1.0).slab_degrees_of_freedom
    4.0
    """

    def __init__(
        self,
        *,
        global_scale: float = 1e-5,
        slab_scale: float = 2.0,
        slab_degrees_of_freedom: float = 4.0,
        half_cauchy: HalfCauchyForm = "quadrature",
        rest: Prior | None = None,
    ) -> None:
        super().__init__(rest=rest)
        self.global_scale = positive("global_scale", global_scale)
        self.slab_scale = positive("slab_scale", slab_scale)
        self.slab_degrees_of_freedom = positive("slab_degrees_of_freedom", slab_degrees_of_freedom)
        self.half_cauchy = _form(half_cauchy)

    def scale(self, weight: Weight, nodes: int) -> tuple[ScaleProgram, float]:
        """The bounded scales; unbounded ones begin at one and the slab at s."""
        square = _square("slab_scale", self.slab_scale, weight)
        half = 0.5 * self.slab_degrees_of_freedom
        whole = half_cauchy(f"{weight.name}.global", 1, self.global_scale, weight, form=self.half_cauchy)
        local = half_cauchy(f"{weight.name}.local", nodes, 1.0, weight, form=self.half_cauchy)
        slab = _vector(dist.InverseGamma(weight.value.new_tensor(half), weight.value.new_tensor(half * square)), 1)
        start: Any = {"initial_value": weight.value.new_full((1,), square)}

        def scales() -> Tensor:
            return bounded(whole() * local(), pyro.sample(f"{weight.name}.slab", slab, infer=start))

        return scales, 1.0 / math.sqrt(1.0 + 1.0 / square)

    def __repr__(self) -> str:
        return (
            f"RegularizedHorseshoe(global_scale={self.global_scale}, slab_scale={self.slab_scale}, "
            f"slab_degrees_of_freedom={self.slab_degrees_of_freedom}, half_cauchy={self.half_cauchy!r}, "
            f"rest={self.rest!r})"
        )


def half_cauchy(name: str, size: int, scale: float, weight: Weight, *, form: HalfCauchyForm) -> ScaleProgram:
    """The program that samples `size` half-Cauchy variables of this scale, which begin at one."""
    square = _square("global_scale", scale, weight)
    one = weight.value.new_ones(())
    if form == "quadrature":
        law = _vector(dist.HalfCauchy(one * scale), size)
        start: Any = {"initial_value": one.expand(size)}
        return lambda: pyro.sample(name, law, infer=start)
    gamma, inverse = (
        _vector(dist.Gamma(0.5 * one, one / square), size),
        _vector(dist.InverseGamma(0.5 * one, one), size),
    )
    gamma_start: Any = {"initial_value": (one * square).expand(size)}
    inverse_start: Any = {"initial_value": (one / square).expand(size)}

    def program() -> Tensor:
        a = pyro.sample(f"{name}.gamma", gamma, infer=gamma_start)
        b = pyro.sample(f"{name}.inverse_gamma", inverse, infer=inverse_start)
        return (a * b).sqrt()

    return program


def bounded(scale: Tensor, slab: Tensor) -> Tensor:
    r"""The scale :math:`u = \tau\lambda` bounded by c, :math:`(u^{-2} + c^{-2})^{-1/2}`, from u and c squared.

    Through logarithms, so that neither square over- or underflows.

    >>> bounded(torch.tensor([1e-30, 1.0, 1e30]), torch.tensor(4.0))
    tensor([1.0000e-30, 8.9443e-01, 2.0000e+00])
    """
    log_scale = scale.clamp_min(torch.finfo(scale.dtype).tiny).log()
    return (-0.5 * torch.logaddexp(-2.0 * log_scale, -slab.log())).exp()


def _vector(law: Any, size: int) -> Any:
    """Independent copies. Unvalidated: a sampler's step beyond the floats is a divergence, not an error."""
    law = law.expand([size])
    law._validate_args = False
    return law.to_event(1)


def _square(what: str, value: float, weight: Weight) -> float:
    """The square, if the dtype can hold it and its reciprocal."""
    limits = torch.finfo(weight.value.dtype)
    if not limits.tiny <= value**2 <= 1.0 / limits.tiny:
        low, high = math.sqrt(limits.tiny), math.sqrt(1.0 / limits.tiny)
        expected = f"between {low:.1e} and {high:.1e} for weights of {weight.value.dtype}"
        raise InputError(what, expected=expected, got=repr(value))
    return value**2


def _form(form: str) -> Any:
    if form not in ("quadrature", "decomposed"):
        raise InputError("half_cauchy", expected='"quadrature" or "decomposed"', got=repr(form))
    return form

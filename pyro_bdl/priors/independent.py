"""Priors under which all weights are independent, one `pyro.sample` site a parameter tensor."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_bdl.errors import InputError
from pyro_bdl.priors.weight import Weight, WeightProgram


class Independent(ABC):
    """A prior that names one distribution for each weight."""

    @abstractmethod
    def distribution(self, weight: Weight) -> dist.TorchDistribution:
        """The distribution of one scalar of this weight."""

    def bind(self, weights: Sequence[Weight]) -> WeightProgram:
        """The program that samples each weight on its own, under its own name."""
        sites = [(w.name, self.distribution(w).expand(w.value.shape).to_event(w.value.dim()), w.start) for w in weights]

        def program() -> dict[str, Tensor]:
            return {name: pyro.sample(name, fn, infer=start) for name, fn, start in sites}

        return program


class Gaussian(Independent):
    r"""Independent :math:`w \sim N(0, s^2)`.

    Args:
        scale: s. Default 1, the usual choice for networks whose inputs are of order one.
        fan_in: divide by the root of the fan-in, :math:`s / \sqrt{n_{in}}`, so that each layer's outputs keep their
            size whatever its width (Neal 1996); biases have fan-in 1.

    Raises:
        InputError: a scale that is not a positive number.

    >>> Gaussian(2.0, fan_in=True)
    Gaussian(scale=2.0, fan_in=True)
    """

    def __init__(self, scale: float = 1.0, *, fan_in: bool = False) -> None:
        self.scale, self.fan_in = positive("scale", scale), fan_in

    def distribution(self, weight: Weight) -> dist.TorchDistribution:
        """N(0, s^2) or N(0, s^2 / fan-in)."""
        return dist.Normal(*zero_and(self.scale / math.sqrt(weight.fan_in if self.fan_in else 1), weight))

    def __repr__(self) -> str:
        return f"Gaussian(scale={self.scale}, fan_in={self.fan_in})"


class Laplace(Independent):
    r"""Independent :math:`p(w) = \exp(-|w| / b) / 2b`: the prior whose mode is the lasso.

    Args:
        scale: b; the standard deviation is :math:`b \sqrt 2`. Default 1.

    Raises:
        InputError: a scale that is not a positive number.

    >>> Laplace(0.5)
    Laplace(scale=0.5)
    """

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = positive("scale", scale)

    def distribution(self, weight: Weight) -> dist.TorchDistribution:
        """Laplace(0, b)."""
        return dist.Laplace(*zero_and(self.scale, weight))

    def __repr__(self) -> str:
        return f"Laplace(scale={self.scale})"


class StudentT(Independent):
    r"""Independent Student-t weights, :math:`w = s\,t_\nu`: heavy tails, as trained networks have them.

    Args:
        degrees_of_freedom: nu. Default 3, about what Fortuin et al. 2022 measured on trained fully connected layers.
        scale: s. Default 1.

    Raises:
        InputError: a value that is not a positive number.

    >>> StudentT(4.0)
    StudentT(degrees_of_freedom=4.0, scale=1.0)
    """

    def __init__(self, degrees_of_freedom: float = 3.0, scale: float = 1.0) -> None:
        self.degrees_of_freedom = positive("degrees_of_freedom", degrees_of_freedom)
        self.scale = positive("scale", scale)

    def distribution(self, weight: Weight) -> dist.TorchDistribution:
        """StudentT(nu, 0, s)."""
        zero, scale = zero_and(self.scale, weight)
        return dist.StudentT(torch.full_like(zero, self.degrees_of_freedom), zero, scale)

    def __repr__(self) -> str:
        return f"StudentT(degrees_of_freedom={self.degrees_of_freedom}, scale={self.scale})"


class ScaleMixture(Independent):
    r"""Independent mixture of two Gaussians, :math:`\pi N(0, s_1^2) + (1 - \pi) N(0, s_2^2)`.

    The prior of Bayes by backprop (Blundell et al. 2015, eq. 7). Its KL has no closed form and is estimated.

    Args:
        weight: pi, the share of the wide component. Default 0.5.
        wide: s1. Default 1.
        narrow: s2. Default exp(-6), the first and widest of the paper's exp(-6), exp(-7), exp(-8).

    Raises:
        InputError: a share outside (0, 1), a scale that is not positive, narrow not below wide.

    >>> ScaleMixture(0.25, narrow=0.5)
    ScaleMixture(weight=0.25, wide=1.0, narrow=0.5)
    """

    def __init__(self, weight: float = 0.5, wide: float = 1.0, narrow: float = math.exp(-6)) -> None:
        if not (isinstance(weight, (int, float)) and 0.0 < weight < 1.0):
            raise InputError("weight", expected="a share in (0, 1)", got=repr(weight))
        self.weight, self.wide, self.narrow = weight, positive("wide", wide), positive("narrow", narrow)
        if not narrow < wide:
            raise InputError("narrow", expected=f"less than wide = {wide}", got=str(narrow))

    def distribution(self, weight: Weight) -> dist.TorchDistribution:
        """The two-component mixture."""
        share = weight.value.new_tensor([self.weight, 1.0 - self.weight])
        scales = weight.value.new_tensor([self.wide, self.narrow])
        return dist.MixtureSameFamily(dist.Categorical(share), dist.Normal(torch.zeros_like(scales), scales))

    def __repr__(self) -> str:
        return f"ScaleMixture(weight={self.weight}, wide={self.wide}, narrow={self.narrow})"


def positive(what: str, value: float) -> float:
    """The value, if it is a positive finite number."""
    if not (isinstance(value, (int, float)) and 0.0 < value < math.inf):
        raise InputError(what, expected="a positive finite number", got=repr(value))
    return float(value)


def zero_and(scale: float, weight: Weight) -> tuple[Tensor, Tensor]:
    """Location zero and this scale, as numbers of the weight's dtype on its device."""
    return weight.value.new_tensor(0.0), weight.value.new_tensor(scale)

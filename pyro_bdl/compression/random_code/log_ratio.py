"""The posterior against the prior, for factorised Gaussians: the KL and the log importance weights."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pyro_bdl.compression.random_code.shared_normals import Floats
from pyro_bdl.errors import InputError

_LARGEST_MEAN = 1e100  # prior deviations: its square times _LARGEST_PRECISION is finite
_LARGEST_PRECISION = 1e40  # beyond it every step of the grid of z is worth 1e30 nats: larger ones choose alike
_TOLERANCE = 0.01  # nats of rounding error in a log weight for which float32 will do


@dataclass(frozen=True)
class RelativePosterior:
    r"""q = N(mean, variance) in units of the prior's deviation s: what coding works on, checked.

    Attributes:
        mean: :math:`m = \mu / s`, shape (weights,), float64.
        variance: :math:`v = \sigma^2 / s^2`, shape (weights,), float64, positive.
        scale: s as the receiver has it, shape (weights,), float32.
    """

    mean: Floats
    variance: Floats
    scale: npt.NDArray[np.float32]

    @classmethod
    def of(cls, mean: Any, variance: Any, prior_scale: Any) -> "RelativePosterior":
        """From flat arrays or tensors; the prior's scale may be one number.

        Raises:
            InputError: shapes that differ, numbers that are not finite, a variance or a scale that is not positive,
                a mean more than 1e100 prior deviations out.
        """
        mu, var = _flat("mean", mean), _flat("variance", variance)
        if var.shape != mu.shape:
            raise InputError("variance", expected=f"shape {mu.shape}", got=f"shape {var.shape}")
        scale = prior_scales(prior_scale, len(mu))
        wide = scale.astype(np.float64)
        with np.errstate(over="ignore", under="ignore"):
            m, v = mu / wide, var / wide / wide
        for what, bad, expected in (
            ("mean", ~(np.abs(m) <= _LARGEST_MEAN), f"finite, at most {_LARGEST_MEAN:g} prior deviations"),
            ("variance", ~((v > 0) & np.isfinite(v)), "positive and finite (zero would cost infinitely many bits)"),
        ):
            if bad.any():
                i = int(np.argmax(bad))
                raise InputError(f"the {what} of weight {i}", expected=expected, got=str((mu, var)[what != "mean"][i]))
        return cls(m, v, scale)

    def kl(self) -> Floats:
        r"""The KL of each weight in nats, :math:`\frac12 (v + m^2 - 1 - \log v)`."""
        return np.maximum(0.5 * ((self.variance - 1) - np.log(self.variance) + np.square(self.mean)), 0.0)

    def take(self, members: Any) -> "RelativePosterior":
        """The same for some of the weights."""
        return RelativePosterior(self.mean[members], self.variance[members], self.scale[members])


def log_ratio(q: RelativePosterior, z: npt.NDArray[np.float32]) -> Floats:
    r"""The log importance weight of each candidate, up to a constant of the block:

    .. math:: \log \frac{q(z)}{p(z)} = \sum_i \frac{z_i^2}{2} - \frac{(z_i - m_i)^2}{2 v_i} + const
                                     = \sum_i a_i z_i + c_i z_i^2 + const

    The second form is two matrix-vector products in float32; where its terms would cancel to more than a
    hundredth of a nat of error (narrow posteriors) the first is computed in float64.

    Args:
        q: the posterior of the block's weights.
        z: candidates, standard normal, shape (candidates, weights).

    Returns:
        Shape (candidates,), float64.
    """
    precision = np.minimum(1 / np.maximum(q.variance, 1 / _LARGEST_PRECISION), _LARGEST_PRECISION)
    linear, square = q.mean * precision, 0.5 * (1 - precision)
    if np.finfo(np.float32).eps * (4 * np.abs(linear) + 16 * np.abs(square)).sum() < _TOLERANCE:
        return (z @ linear.astype(np.float32) + np.square(z) @ square.astype(np.float32)).astype(np.float64)
    wide = z.astype(np.float64)
    return 0.5 * (np.square(wide).sum(1) - np.square(wide - q.mean) @ precision)


def gaussian_kl_bits(mean: Any, variance: Any, prior_scale: Any) -> Floats:
    r"""The KL of each weight's Gaussian posterior from its Gaussian prior, in bits.

    .. math:: \frac{1}{2 \ln 2} \left(\frac{\sigma^2 + \mu^2}{s^2} - 1 - \ln \frac{\sigma^2}{s^2}\right)

    Args:
        mean, variance: of the posterior N(mu, sigma^2), shape (weights,).
        prior_scale: the deviation s of the prior N(0, s^2), a number or shape (weights,).

    Returns:
        Shape (weights,), float64, not negative.

    Raises:
        InputError: as `encode`.

    >>> gaussian_kl_bits([0.0, 2.0], [1.0, 1.0], 1.0).round(3).tolist()
    [0.0, 2.885]
    """
    return RelativePosterior.of(mean, variance, prior_scale).kl() / math.log(2)


def prior_scales(prior_scale: Any, count: int) -> npt.NDArray[np.float32]:
    """The prior's deviations in float32, one a weight.

    Raises:
        InputError: another shape, or a number that is not positive and finite in float32.
    """
    scale = np.asarray(_numpy(prior_scale), dtype=np.float64)
    if scale.shape not in {(), (count,)}:
        raise InputError("prior_scale", expected=f"a number or shape ({count},)", got=f"shape {scale.shape}")
    with np.errstate(over="ignore", under="ignore"):
        narrow = scale.astype(np.float32)
    if not (np.isfinite(narrow) & (narrow >= np.finfo(np.float32).tiny)).all():
        raise InputError(
            "prior_scale", expected="positive and finite in float32", got=f"{scale.min()} to {scale.max()}"
        )
    return np.broadcast_to(narrow, (count,))


def _flat(name: str, values: Any) -> Floats:
    array = np.asarray(_numpy(values), dtype=np.float64)
    if array.ndim != 1:
        raise InputError(name, expected="shape (weights,)", got=f"shape {array.shape}")
    return array


def _numpy(values: Any) -> Any:
    return values.detach().cpu().double().numpy() if hasattr(values, "detach") else values

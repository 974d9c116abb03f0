r"""The posterior of the mixture with tied means (Welling & Teh 2011, section 5.1), exact on a grid.

.. math::
    \theta_1 \sim N(0, 10), \quad \theta_2 \sim N(0, 1), \quad
    x_n \sim \tfrac12 N(\theta_1, 2) + \tfrac12 N(\theta_1 + \theta_2, 2)

The likelihood is the same at (theta_1 + theta_2, -theta_2): two modes, whose masses only the prior tells apart.
"""

import math
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor

PRIOR_VARIANCES = (10.0, 1.0)
VARIANCE = 2.0
TRUTH = (0.0, 1.0)
BOX = ((-2.5, 3.5), (-4.0, 4.0))  # of theta_1 and theta_2; all but 1e-9 of the mass
BINS = 48
CELLS = 10  # of the grid in a bin, each way


def draw_data(count: int, seed: int) -> Tensor:
    """Data points from the truth, shape (count,), float64; the seed is the data's own."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, generator=generator, dtype=torch.float64)
    second = torch.rand(count, generator=generator, dtype=torch.float64) < 0.5
    return TRUTH[0] + TRUTH[1] * second + math.sqrt(VARIANCE) * noise


def model(x: Tensor, size: int) -> None:
    """The Pyro program, for a batch of `size` data points."""
    sd = torch.tensor(PRIOR_VARIANCES, dtype=x.dtype).sqrt()
    theta = pyro.sample("theta", dist.Normal(torch.zeros_like(sd), sd).to_event(1))
    components = dist.Normal(torch.stack([theta[0], theta.sum()]), math.sqrt(VARIANCE))
    with pyro.plate("data", size=size, subsample_size=len(x)):
        pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(torch.ones_like(sd)), components), obs=x)


def log_joint(theta: Tensor, x: Tensor) -> Tensor:
    """log p(x, theta) for theta (2, ...), shape (...)."""
    total = sum(
        -0.5 * part.square() / v - 0.5 * math.log(2 * math.pi * v)
        for part, v in zip(theta, PRIOR_VARIANCES, strict=True)
    )
    assert isinstance(total, Tensor)
    for point in x:
        first, second = (point - theta[0]).square(), (point - theta[0] - theta[1]).square()
        total = total + torch.logaddexp(-0.5 * first / VARIANCE, -0.5 * second / VARIANCE)
    return total - len(x) * (math.log(2) + 0.5 * math.log(2 * math.pi * VARIANCE))


def score(theta: Tensor, x: Tensor, *, times: float = 1.0) -> Tensor:
    """The gradient of log p(x | theta) for one data point each: theta (2, ...), x (...), shape (2, ...).

    With r the probability that x is of the second component it is (x - theta_1 - r theta_2, r (x - theta_1 -
    theta_2)) / 2. It is multiplied by `times`.
    """
    first, difference = theta.unbind(0)
    residual = x - first
    other = residual - difference
    share = ((residual + other) * difference).mul_(0.5 / VARIANCE).sigmoid_()
    return torch.stack((residual - share * difference, share * other)).mul_(times / VARIANCE)


def prior_precisions(like: Tensor) -> Tensor:
    """Of theta, shape (2, 1)."""
    return torch.tensor(PRIOR_VARIANCES, dtype=like.dtype).reciprocal_()[:, None]


@dataclass(frozen=True, eq=False)
class Exact:
    """The posterior on a grid of midpoints, normalised by their sum.

    Attributes:
        axes: the midpoints, for theta_1 (I,) and theta_2 (J,).
        density: shape (I, J), in units of 1 / theta^2.
        log_evidence: log p(x).
        masses: of the bins, (BINS, BINS).
    """

    axes: tuple[Tensor, Tensor]
    density: Tensor
    log_evidence: float
    masses: Tensor

    @classmethod
    def of(cls, x: Tensor, cells: int = CELLS) -> "Exact":
        """The posterior of these data. The midpoint rule's log evidence is exact to 1e-6, a bin's mass to 0.1%."""
        widths = [(high - low) / (BINS * cells) for low, high in BOX]
        steps = torch.arange(BINS * cells, dtype=x.dtype) + 0.5
        axes = (BOX[0][0] + widths[0] * steps, BOX[1][0] + widths[1] * steps)
        logs = log_joint(torch.stack(torch.meshgrid(*axes, indexing="ij")), x)
        area = widths[0] * widths[1]
        log_evidence = float(logs.flatten().logsumexp(0)) + math.log(area)
        density = (logs - log_evidence).exp()
        masses = F.avg_pool2d(density[None], cells)[0] * area * cells**2
        return cls(axes, density, log_evidence, masses)

    @property
    def mass_above(self) -> float:
        """The mass of the mode with theta_2 > 0."""
        return float(self.masses[:, BINS // 2 :].sum())

    def draw(self, count: int) -> Tensor:
        """Independent draws of the bins, as their centres, (2, count)."""
        chosen = torch.multinomial(self.masses.flatten(), count, replacement=True)
        rows = torch.stack((chosen // BINS, chosen % BINS)).to(self.density)
        low = torch.tensor([b[0] for b in BOX], dtype=rows.dtype)[:, None]
        width = torch.tensor([(b[1] - b[0]) / BINS for b in BOX], dtype=rows.dtype)[:, None]
        return low + (rows + 0.5) * width

    def distance(self, theta: Tensor, weights: Tensor) -> float:
        """Total variation of weighted draws, (2, n) and (n,), from the posterior: half of sum |p - q| over the bins.

        Draws outside of the box are a bin of their own, of mass 0.
        """
        masses = histogram(theta, weights)
        return 0.5 * float((masses - self.masses).abs().sum() + (1 - masses.sum()).abs())


def histogram(theta: Tensor, weights: Tensor) -> Tensor:
    """The share of the weights in each bin, (BINS, BINS); what lies outside of the box is missing."""
    places = [
        ((part - low) * (BINS / (high - low))).floor().long() for part, (low, high) in zip(theta, BOX, strict=True)
    ]
    inside = (places[0] >= 0) & (places[0] < BINS) & (places[1] >= 0) & (places[1] < BINS)
    flat = (places[0] * BINS + places[1])[inside]
    return torch.zeros(BINS**2, dtype=weights.dtype).index_add_(0, flat, weights[inside] / weights.sum()).view(BINS, -1)

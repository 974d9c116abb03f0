"""The Gaussian prior under which a layer's weights are coded: scales by layer, by row, by column, or by both."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pyro_bdl.compression.coding.coder import Decoder, Encoder
from pyro_bdl.compression.coding.meter import measure
from pyro_bdl.compression.coding.protocol import corrupt
from pyro_bdl.compression.coding.symbols import Uniform
from pyro_bdl.compression.coding.weights import Weights
from pyro_bdl.compression.random_code.log_ratio import gaussian_kl_bits
from pyro_bdl.compression.random_code.scale_grid import scale_from_byte
from pyro_bdl.errors import InputError

Layout = Literal["layer", "rows", "columns", "both"]
LAYOUTS: tuple[Layout, ...] = ("layer", "rows", "columns", "both")
STEP = 2  # of the grid of `scale_grid`: four scales a doubling
SWEEPS = 30
SCALES = tuple(map(scale_from_byte, range(256)))


@dataclass(frozen=True, eq=False)
class CodingPrior:
    r"""Independent normals :math:`w_{ij} \sim N(0, s_{ij}^2)` with :math:`s_{ij} = 2^{(b + 2 r_i + 2 c_j)/8 - 24}`.

    Attributes:
        base: b, an integer from 0 to 255: a number of `scale_from_byte`.
        rows: r, int64 of the length of the tensor's first dimension; zeros where rows have no scales of their own.
        columns: c, the same for the second dimension (that of a vector has length 1).

    >>> prior = CodingPrior(192, torch.tensor([0, -4]), torch.tensor([0]))
    >>> prior.scales(torch.zeros(2, 1)).tolist()
    [[1.0], [0.5]]
    """

    base: int
    rows: Tensor
    columns: Tensor

    @property
    def layout(self) -> Layout:
        """Which scales there are."""
        return LAYOUTS[bool(self.rows.any()) + 2 * bool(self.columns.any())]

    def scales(self, like: Tensor) -> Tensor:
        """The deviation of each weight, float32, of another tensor's shape.

        Raises:
            InputError: scales outside the grid.
        """
        steps = self.base + STEP * (self.rows[:, None] + self.columns[None, :])
        if not bool(((steps >= 0) & (steps < len(SCALES))).all()):
            raise InputError("the scales of a prior", expected="on the grid", got=f"{steps.min()} to {steps.max()}")
        scales = torch.tensor(SCALES)[steps].reshape(_matrix(like).shape[:2])
        return (
            scales.reshape(*scales.shape, *[1] * (like.dim() - 2))
            .expand(*scales.shape, *like.shape[2:])
            .reshape(like.shape)
        )

    def put(self, encoder: Encoder) -> None:
        """Write it."""
        encoder.put([LAYOUTS.index(self.layout)], Uniform(len(LAYOUTS)))
        encoder.put([self.base], Uniform(len(SCALES)))
        for steps in (self.rows, self.columns):
            if bool(steps.any()):
                encoder.put(steps.numpy().astype(np.int64), Weights())

    @classmethod
    def get(cls, decoder: Decoder, like: Tensor) -> "CodingPrior":
        """Read that of a tensor.

        Raises:
            CorruptFileError: scales outside the grid, or none where some are announced.
        """
        layout = int(decoder.get(1, Uniform(len(LAYOUTS)))[0])
        base = int(decoder.get(1, Uniform(len(SCALES)))[0])
        lengths = _matrix(like).shape[:2]
        steps = [
            torch.from_numpy(decoder.get(n, Weights()).astype(np.int64)) if layout & 1 << k else torch.zeros(n).long()
            for k, n in enumerate(lengths)
        ]
        prior = cls(base, *steps)
        if LAYOUTS.index(prior.layout) != layout or any(bool((s.abs() > len(SCALES)).any()) for s in steps):
            raise corrupt(f"scales by {LAYOUTS[layout]}", "none, or some outside the grid")
        try:
            prior.scales(like)
        except InputError as error:
            raise corrupt("scales on the grid", f"{error}") from error
        return prior

    def kl(self, mean: Tensor, variance: Tensor) -> float:
        """The KL of a posterior of these weights from it, in bits."""
        flat = (values.detach().flatten() for values in (mean, variance, self.scales(mean)))
        return float(gaussian_kl_bits(*flat).sum())

    def bits(self) -> float:
        """What it takes in a file."""
        parts = [measure(steps.numpy(), Weights()) for steps in (self.rows, self.columns) if bool(steps.any())]
        return 10.0 + sum(parts)


def coding_prior(mean: Tensor, variance: Tensor, *, extra: float = 0.0) -> CodingPrior:
    r"""The prior under which the weights of one tensor are coded shortest, its own scales included.

    For a scale common to the weights of a set W the KL is least at

    .. math:: s^2 = \frac1{|W|} \sum_{i \in W} (\mu_i^2 + \sigma_i^2)

    (empirical Bayes; the learned scale of a layer of Havasi et al. 2019 has the same optimum). Scales of rows and
    columns together are found by alternating it. Scales of nodes say which inputs and outputs matter, as node priors
    do, and cost a few bits each; the four layouts are compared by their length.

    Args:
        mean, variance: of a posterior, variances positive; rows are the first dimension, columns the second.
        extra: the share by which a code is longer than the KL.

    >>> mean = torch.tensor([[1.0, 1.0], [0.01, 0.01]]).repeat(1, 20)
    >>> coding_prior(mean, torch.full((2, 40), 1e-6)).layout
    'rows'
    """
    power = _matrix(mean.detach().double().square() + variance.detach().double())
    candidates = [_fitted(power, layout) for layout in (LAYOUTS if mean.dim() > 1 else LAYOUTS[:1])]

    def length(prior: CodingPrior) -> float:
        return prior.bits() + (1 + extra) * prior.kl(mean, variance)

    return min(candidates, key=length)


def _fitted(power: Tensor, layout: Layout) -> CodingPrior:
    """The best scales of this layout for E[w^2], on the grid."""
    flat = power.flatten(2).mean(2) if power.dim() > 2 else power
    tiny = torch.finfo(torch.float64).tiny
    rows, columns = flat.new_ones(flat.shape[0]), flat.new_ones(flat.shape[1])
    if layout == "layer":
        rows = flat.mean().expand_as(rows)
    for _ in range(SWEEPS if layout == "both" else layout != "layer"):
        if layout in ("columns", "both"):
            columns = (flat / rows[:, None]).mean(0).clamp_min(tiny)
        if layout in ("rows", "both"):
            rows = (flat / columns[None, :]).mean(1).clamp_min(tiny)
    r, c = (0.5 * 8 / STEP * scale.log2() for scale in (rows, columns))  # in steps of the grid
    centre = r.median() + c.median()
    base = round(float(STEP * centre) + 8 * 24)
    r, c = ((x - x.median()).round().long() for x in (r, c))
    return _on_grid(base, r, c)


def _on_grid(base: int, rows: Tensor, columns: Tensor) -> CodingPrior:
    """The nearest prior all of whose scales are on the grid."""
    base = min(max(base, 0), len(SCALES) - 1)
    low, high = -(base // STEP), (len(SCALES) - 1 - base) // STEP
    rows = rows.clamp(low, high)
    return CodingPrior(base, rows, columns.clamp(low - int(rows.min()), high - int(rows.max())))


def _matrix(values: Tensor) -> Tensor:
    """A tensor of at least two dimensions: a vector is one column."""
    return values if values.dim() > 1 else values.reshape(-1, 1)

"""Images as other hands might have written them."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SHIFT = 1 / 14  # of a side, either way: two of MNIST's 28 pixels
ANGLE = 12 * math.pi / 180
STRETCH = 0.1
SLANT = 0.15


def distorted(x: Tensor) -> Tensor:
    """Each image of (N, C, H, W) shifted, turned, stretched and slanted by amounts of its own.

    They are uniform up to a 14th of a side, 12 degrees, a tenth along each axis, and 0.15 of the height, small enough
    that no 6 becomes a 9; they come from torch's generator. Pixels are interpolated, and black from outside the frame.

    >>> distorted(torch.ones(3, 1, 8, 8)).shape
    torch.Size([3, 1, 8, 8])
    """
    some = 2 * torch.rand(6, len(x)).to(x) - 1
    right, down = 2 * SHIFT * some[:2]  # the sides go from -1 to 1
    angle, slant, (wider, higher) = ANGLE * some[2], SLANT * some[3], 1 + STRETCH * some[4:]
    cosine, sine = angle.cos(), angle.sin()
    rows = [cosine * wider, slant - sine, right], [sine, cosine * higher, down]
    maps = torch.stack([torch.stack(row, 1) for row in rows], 1)
    return F.grid_sample(x, F.affine_grid(maps, list(x.shape), align_corners=False), align_corners=False)

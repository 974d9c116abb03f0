"""Images that a network trained on another set has never seen the like of."""

from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_images
from torch import Tensor

from pyro_bdl import data
from pyro_bdl.errors import BDLError

OTHERS = {"mnist": ("notmnist", "fashion_mnist"), "fashion_mnist": ("mnist", "notmnist")}


def outside_images(name: str, root: Path | None) -> dict[str, Tensor]:
    """Test images of other sets, by name, in the shape and range of the set `name`.

    For the embedded digits: grey 8 x 8 patches of scikit-learn's two photographs, and the digits upside down in
    brightness. Sets that cannot be had are left out, with a word about it.
    """
    if name == "digits":
        x = data.load("digits").x_test
        return {"photographs": photograph_patches(len(x)), "inverted": 1.0 - x}
    found = {}
    for other in OTHERS[name]:
        try:
            found[other] = data.load(other, root=root).x_test
        except BDLError as error:
            print(f"without {other}: {error}")
    return found


def photograph_patches(count: int) -> Tensor:
    """`count` patches (count, 1, 8, 8) of photographs at a quarter of their size, at places drawn by a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    patches = []
    for image in load_sample_images().images:
        grey = torch.from_numpy(image.copy()).float().mean(-1) / 255.0
        small = F.avg_pool2d(grey[None, None], 4)
        columns = F.unfold(small, 8)[0].t()
        patches.append(columns[torch.randperm(len(columns), generator=generator)[: (count + 1) // 2]])
    return torch.cat(patches)[:count].reshape(-1, 1, 8, 8)

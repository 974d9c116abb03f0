"""Networks whose units the tests prune."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.networks import lenet_5_caffe, lenet_300_100


class Block(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, channels: int, out: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.short: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.short = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.short(x))


def resnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), Block(8, 8), Block(8, 12, stride=2), Block(12, 12),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5),
    )  # fmt: skip


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.down2 = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU())
        self.middle = nn.Conv2d(8, 10, 3, padding=1)
        self.up2 = nn.ConvTranspose2d(10, 8, 2, 2)
        self.merge2 = nn.Sequential(nn.Conv2d(16, 7, 3, padding=1), nn.BatchNorm2d(7), nn.ReLU())
        self.merge1 = nn.Conv2d(7 + 6, 6, 3, padding=1)
        self.out = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        c = self.up2(F.relu(self.middle(F.max_pool2d(b, 2))))
        d = self.merge2(torch.cat([c, b], 1))
        d = F.interpolate(d, scale_factor=2.0, mode="nearest")
        return self.out(F.relu(self.merge1(torch.cat([d, a], 1))))


class TwoHeads(nn.Module):
    """Two linear layers read the input, two make outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(9, 6), nn.Linear(9, 5)
        self.mean, self.scale = nn.Linear(11, 2), nn.Linear(11, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.flatten(1)
        h = torch.cat([self.left(x).tanh(), self.right(x).sigmoid()], 1)
        return self.mean(h), self.scale(h).exp()


class Mixed(nn.Module):
    """A linear layer that reads flattened features beside a second input of the network."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc, self.out = nn.Conv2d(1, 4, 3), nn.Linear(4 * 16 + 3, 9), nn.Linear(9, 2)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        h = self.conv(x).relu().flatten(1)
        return self.out(torch.sigmoid(self.fc(torch.cat([h, z], 1))))


def batch_norm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.PReLU(6), nn.Conv2d(6, 8, 3), nn.InstanceNorm2d(8), nn.Sigmoid(),
        nn.Flatten(), nn.Linear(8 * 16, 10), nn.BatchNorm1d(10), nn.Tanh(), nn.Linear(10, 3),
    )  # fmt: skip


def depthwise() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 6, 1), nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(24, 4),
    )  # fmt: skip


def grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 12, 3), nn.ReLU(), nn.Conv2d(12, 18, 3, groups=3), nn.GELU(),
        nn.ConvTranspose2d(18, 12, 2, groups=3), nn.ReLU(), nn.Conv2d(12, 5, 1), nn.Sigmoid(), nn.Conv2d(5, 1, 1),
    )  # fmt: skip


def transposed() -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose2d(5, 6, 2), nn.ReLU(), nn.ConvTranspose2d(6, 7, 3, 2), nn.BatchNorm2d(7),
        nn.LeakyReLU(), nn.ConvTranspose2d(7, 4, 2), nn.ConvTranspose2d(4, 4, 2, groups=4), nn.ConvTranspose2d(4, 1, 2),
    )  # fmt: skip


def one_dimension() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 6, 3),
        nn.BatchNorm1d(6),
        nn.ReLU(),
        nn.Conv1d(6, 4, 3),
        nn.AvgPool1d(2),
        nn.Flatten(),
        nn.Linear(12, 2),
    )


Case = tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]

PRUNABLE: dict[str, Case] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(7, 9), nn.Tanh(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 3)), ((2, 7),)),
    "lenet_300_100": (lambda: lenet_300_100((1, 28, 28), 10), ((2, 1, 28, 28),)),
    "lenet_5": (lambda: lenet_5_caffe((1, 28, 28), 10), ((2, 1, 28, 28),)),
    "batch_norm": (batch_norm, ((2, 2, 8, 8),)),
    "resnet": (resnet, ((2, 3, 8, 8),)),
    "unet": (UNet, ((2, 1, 8, 8),)),
    "depthwise": (depthwise, ((2, 3, 6, 6),)),
    "grouped": (grouped, ((2, 2, 8, 8),)),
    "transposed": (transposed, ((2, 5, 1, 1),)),
    "one_dimension": (one_dimension, ((2, 2, 10),)),
    "two_heads": (TwoHeads, ((2, 1, 3, 3),)),
    "mixed": (Mixed, ((2, 1, 6, 6), (2, 3))),
}


def make(name: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The network in evaluation mode with an example input; its running statistics are those of some data."""
    build, shapes = PRUNABLE[name]
    network, inputs = build().to(dtype), tuple(torch.randn(shape, dtype=dtype) for shape in shapes)
    with torch.no_grad():
        for _ in range(3):
            network(*(2 * x + 1 for x in inputs))
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return network.eval(), inputs

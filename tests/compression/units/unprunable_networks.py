"""Networks with layers that cannot be pruned: those kept whole, and the architecture of the rest."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm, self.fc, self.out = nn.Linear(3, 5), nn.LSTM(5, 6), nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.fc(self.lstm(self.embed(x))[0]).relu())


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(3, 8), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.hidden, self.out = nn.Linear(8, 12), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.embed(x))
        h = h + self.attention(h, h, h, need_weights=False)[0]
        return self.out(F.gelu(self.hidden(h)))


class Functional(nn.Module):
    """A weight that is used without its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        return self.out(F.linear(h, self.second.weight).tanh()) + h.sum(-1, keepdim=True)


class Tied(nn.Module):
    """A decoder that uses the encoder's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.second.weight = nn.Parameter(torch.randn(6, 6))
        self.again = nn.Linear(6, 6)
        self.again.weight = self.second.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.again(self.second(self.first(x)).relu()).relu())


class Gated(nn.Module):
    """Units i and i + 6 of the first layer only exist together, which is not known of a split."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(4, 12), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.first(x).chunk(2, 1)
        return self.out(a * b.sigmoid())


class Scaled(nn.Module):
    """A parameter of the network's own meets the units."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(4, 6), nn.Linear(6, 2)
        self.gain = nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.first(x) * self.gain)


class Odd(nn.Linear):
    """A linear layer that computes something else."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) ** 2


def sequential(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers)


UNPRUNABLE: dict[str, tuple[nn.Module, tuple[int, ...], set[str], str]] = {
    "lstm": (Recurrent(), (4, 2, 3), {"embed", "lstm"}, "3-6-4"),
    "attention": (Attention(), (2, 5, 3), {"embed", "attention", "attention.out_proj"}, "3-8-12"),
    "functional": (Functional(), (2, 4), {"first", "second", "out"}, "4-5"),
    "tied": (Tied(), (2, 4), {"first", "second", "again"}, "4-6"),
    "gated": (Gated(), (2, 4), {"first"}, "4-6"),
    "scaled": (Scaled(), (2, 4), {"first", ""}, "4-6"),
    "odd": (sequential(nn.Linear(4, 6), nn.ReLU(), Odd(6, 5), nn.Linear(5, 2)), (2, 4), {"0", "2"}, "4-5"),
    "unflatten": (
        sequential(nn.Linear(4, 12), nn.Unflatten(1, (3, 2, 2)), nn.Conv2d(3, 5, 2), nn.Flatten(), nn.Linear(5, 2)),
        (2, 4),
        {"0"},
        "4-5",
    ),
    "softmax": (sequential(nn.Linear(4, 6), nn.Softmax(1), nn.Linear(6, 2)), (2, 4), {"0"}, "4-6"),
    "layer norm": (sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2)), (2, 4), {"0"}, "4-6"),
    "group norm": (sequential(nn.Conv2d(1, 6, 3), nn.GroupNorm(2, 6), nn.Conv2d(6, 2, 3)), (2, 1, 8, 8), {"0"}, ""),
    "pixel shuffle": (sequential(nn.Conv2d(1, 8, 3), nn.PixelShuffle(2), nn.Conv2d(2, 1, 3)), (2, 1, 8, 8), {"0"}, ""),
}

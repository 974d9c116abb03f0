"""A linear layer that reads some of its inputs."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_bdl.errors import InputError


class SelectedLinear(nn.Linear):
    r"""A linear layer on a selection of its inputs, :math:`y = W x_S + b`.

    What is left of a linear layer when single inputs of it were pruned that the layers before still compute: pixels of
    an image, positions of a feature map.

    Args:
        inputs: positions that are read, (n,), increasing.
        source_features: length of what the layer is handed.
        out_features: length of its output.
        bias: whether there is a bias.
        device, dtype: of the parameters.

    Shapes: (..., source_features) to (..., out_features); `weight` is (out_features, n), `inputs` a buffer.

    Raises:
        InputError: positions that are not increasing within [0, source_features).

    >>> layer = SelectedLinear(torch.tensor([0, 2]), source_features=3, out_features=1, bias=False)
    >>> _ = nn.init.ones_(layer.weight)
    >>> layer(torch.tensor([1.0, 10.0, 100.0])).item()
    101.0
    """

    inputs: Tensor

    def __init__(
        self,
        inputs: Tensor,
        *,
        source_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _check(inputs, source_features)
        super().__init__(len(inputs), out_features, bias=bias, device=device, dtype=dtype)
        self.source_features = source_features
        self.register_buffer("inputs", inputs.to(device=device, dtype=torch.long))

    @classmethod
    def of(cls, linear: nn.Linear, inputs: Tensor, *, source_features: int) -> "SelectedLinear":
        """The same layer, its weight's columns standing for these inputs: parameters, flags and hooks are shared."""
        _check(inputs, source_features)
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer.__dict__.update(linear.__dict__)
        layer._buffers = dict(linear._buffers)
        layer.source_features = source_features
        layer.register_buffer("inputs", inputs.to(linear.weight.device))
        return layer

    def dense(self) -> nn.Linear:
        """A plain linear layer on all inputs with the same output: zero columns for those that are not read."""
        layer = nn.Linear(self.source_features, self.out_features, bias=self.bias is not None, device="meta")
        weight = self.weight.new_zeros(self.out_features, self.source_features)
        weight[:, self.inputs] = self.weight.detach()
        layer.weight = nn.Parameter(weight, requires_grad=self.weight.requires_grad)
        if self.bias is not None:
            layer.bias = self.bias
        return layer.train(self.training)

    def forward(self, input: Tensor) -> Tensor:
        """The output, (..., out_features)."""
        return F.linear(input.index_select(-1, self.inputs), self.weight, self.bias)

    def extra_repr(self) -> str:
        """What `repr` says of the layer's sizes."""
        return f"source_features={self.source_features}, " + super().extra_repr()


def _check(inputs: Tensor, source_features: int) -> None:
    increasing = inputs.dim() == 1 and len(inputs) > 0 and bool((inputs[1:] > inputs[:-1]).all())
    if not increasing or int(inputs[0]) < 0 or int(inputs[-1]) >= source_features:
        raise InputError(
            "the inputs of a SelectedLinear",
            expected=f"increasing positions in [0, {source_features})",
            got=f"{inputs.tolist()}" if inputs.numel() < 10 else f"shape {tuple(inputs.shape)}",
        )

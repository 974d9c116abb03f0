"""Encoders and decoders of the literature."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.networks import fully_connected
from pyro_bdl.latent import Summed


def dense(sizes: Sequence[int], nonlinearity: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    """A multilayer perceptron on flattened inputs, whose layers go by numbers, as files of weights have them."""
    return nn.Sequential(*fully_connected(sizes, nonlinearity))


def begin_at(decoder: nn.Module, mean: Tensor) -> nn.Module:
    """Let a decoder of Bernoulli logits begin at the mean image, by the bias of its last layer (Burda et al. 2016)."""
    last = [module for module in decoder.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        last.bias.copy_(torch.logit(mean.flatten().clamp(0.001, 0.999)))
    return decoder


def summed(first: Sequence[int], sizes: Sequence[int], nonlinearity: type[nn.Module] = nn.Softplus) -> Summed:
    """A multilayer perceptron of several inputs of `first` numbers, with hidden layers and outputs of `sizes`."""
    _, *rest = dense(sizes, nonlinearity)
    return Summed(first, sizes[0], nn.Sequential(nonlinearity(), *rest))


def convolutional_encoder(image_shape: Sequence[int], outputs: int, width: int = 32) -> nn.Sequential:
    """Two convolutions of 4 x 4 that halve the image, then a hidden layer of 8 `width` units."""
    channels, height, columns = image_shape
    units = 2 * width * ((height // 2) // 2) * ((columns // 2) // 2)
    return nn.Sequential(
        nn.Conv2d(channels, width, 4, 2, 1), nn.ReLU(), nn.Conv2d(width, 2 * width, 4, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(units, 8 * width), nn.ReLU(), nn.Linear(8 * width, outputs),
    )  # fmt: skip


def convolutional_decoder(
    latent_size: int, image_shape: Sequence[int], numbers: int = 1, width: int = 32
) -> nn.Sequential:
    """The encoder backwards, to `numbers` channels for each of the image's, whose sides are multiples of 4."""
    channels, height, columns = image_shape
    rows, columns = height // 4, columns // 4
    return nn.Sequential(
        nn.Linear(latent_size, 8 * width), nn.ReLU(), nn.Linear(8 * width, 2 * width * rows * columns), nn.ReLU(),
        nn.Unflatten(1, (2 * width, rows, columns)),
        nn.ConvTranspose2d(2 * width, width, 4, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(width, numbers * channels, 4, 2, 1),
    )  # fmt: skip

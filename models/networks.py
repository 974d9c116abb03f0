"""The networks of the literature."""

import itertools
import math
from collections.abc import Sequence

from torch import nn

from pyro_bdl.errors import InputError

VGG = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
VGG_HIDDEN = 512


def fully_connected(sizes: Sequence[int], nonlinearity: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """A multilayer perceptron on flattened inputs, nonlinearities between the layers, which are named fc1, fc2, ..."""
    net = nn.Sequential()
    net.add_module("flatten", nn.Flatten())
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes), start=1):
        if i > 1:
            net.add_module(f"{nonlinearity.__name__.lower()}{i - 1}", nonlinearity())
        net.add_module(f"fc{i}", nn.Linear(fan_in, fan_out))
    return net


def lenet_300_100(image_shape: Sequence[int], classes: int) -> nn.Sequential:
    """LeNet-300-100 (LeCun et al. 1998): two hidden layers of 300 and 100 units."""
    return fully_connected([math.prod(image_shape), 300, 100, classes])


def lenet_5_caffe(image_shape: Sequence[int], classes: int) -> nn.Sequential:
    """LeNet-5 as Caffe has it: 20 and 50 filters of 5 x 5, 500 hidden units; for images of 28 x 28."""
    channels, height, width = image_shape
    if min(height, width) < 16:
        raise InputError("the images", expected="at least 16 x 16 pixels for LeNet-5", got=f"{height} x {width}")
    rows, columns = ((size - 4) // 2 for size in (height, width))
    features = 50 * ((rows - 4) // 2) * ((columns - 4) // 2)
    net = nn.Sequential()
    net.add_module("conv1", nn.Conv2d(channels, 20, 5))
    net.add_module("pool1", nn.MaxPool2d(2))
    net.add_module("conv2", nn.Conv2d(20, 50, 5))
    net.add_module("pool2", nn.MaxPool2d(2))
    net.add_module("flatten", nn.Flatten())
    net.add_module("fc1", nn.Linear(features, 500))
    net.add_module("relu1", nn.ReLU())
    net.add_module("fc2", nn.Linear(500, classes))
    return net


def vgg(image_shape: Sequence[int], classes: int, width: float = 1.0) -> nn.Sequential:
    """The VGG of Bayesian compression on CIFAR-10 (Louizos, Ullrich & Welling 2017, table 2; Zagoruyko 2015).

    Thirteen convolutions of 3 x 3 in the groups of `VGG`, each of which ends in the maximum of 2 x 2, then a hidden
    layer of 512 units; batch normalisation and ReLU after each layer, which therefore needs no bias. There is no
    dropout: the weights' own noise stands for it. 15 million parameters for images of 3 x 32 x 32.

    Args:
        image_shape: channels, height, width; 32 x 32 pixels end as one.
        classes: outputs.
        width: factor on the units of each layer, of which at least one stays. Default 1.

    Raises:
        InputError: a width that is not a positive number.

    >>> [sum(p.numel() for p in vgg((3, 32, 32), 10, width).parameters()) for width in (1, 1 / 8)]
    [14987210, 235970]
    """
    if not 0 < width < math.inf:
        raise InputError("width", expected="a positive number", got=repr(width))
    channels, rows, columns = image_shape
    net, layer = nn.Sequential(), 0
    for i, group in enumerate(VGG, start=1):
        for whole in group:
            layer += 1
            units = max(1, round(width * whole))
            net.add_module(f"conv{layer}", nn.Conv2d(channels, units, 3, padding=1, bias=False))
            net.add_module(f"norm{layer}", nn.BatchNorm2d(units))
            net.add_module(f"relu{layer}", nn.ReLU())
            channels = units
        net.add_module(f"pool{i}", nn.MaxPool2d(2, ceil_mode=True))
        rows, columns = (rows + 1) // 2, (columns + 1) // 2
    hidden = max(1, round(width * VGG_HIDDEN))
    net.add_module("flatten", nn.Flatten())
    net.add_module("fc1", nn.Linear(channels * rows * columns, hidden, bias=False))
    net.add_module(f"norm{layer + 1}", nn.BatchNorm1d(hidden))
    net.add_module(f"relu{layer + 1}", nn.ReLU())
    net.add_module("fc2", nn.Linear(hidden, classes))
    return net

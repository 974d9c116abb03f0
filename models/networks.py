"""The networks of the literature."""

import itertools
import math
from collections.abc import Sequence

from torch import nn

from pyro_bdl.errors import InputError


def fully_connected(sizes: Sequence[int]) -> nn.Sequential:
    """A multilayer perceptron on flattened inputs, ReLU between the layers; layers are named fc1, fc2, ..."""
    net = nn.Sequential()
    net.add_module("flatten", nn.Flatten())
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes), start=1):
        if i > 1:
            net.add_module(f"relu{i - 1}", nn.ReLU())
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

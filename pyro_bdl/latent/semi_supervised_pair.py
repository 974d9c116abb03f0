"""The objective of semi-supervised learning: unlabelled data beside labelled ones, in one model and guide."""

import math
from typing import TYPE_CHECKING

import pyro
import pyro.distributions as dist
from pyro import poutine
from torch import Tensor

from pyro_bdl.errors import InputError
from pyro_bdl.latent.networks import data_plate, observe, register

if TYPE_CHECKING:
    from pyro_bdl.latent.semi_supervised import SemiSupervisedVAE

LABELLED = "labelled"


class SemiSupervisedPair:
    r"""`model(x)` and `guide(x)` of unlabelled data x, which hold the labelled data.

    .. math:: \mathcal J^\alpha = \sum_{labelled} \mathcal L(x, y) + \sum_{unlabelled} \mathcal U(x)
              + \alpha N \, \frac 1{N_l} \sum_{labelled} -\log q(y \mid x)

    (Kingma et al. 2014, equations 8 and 9, with their :math:`\alpha N`, N all data points.) The last term is an observed
    site of the model: without it the classifier would learn from unlabelled data only. Both parts are scaled to their
    whole sets by plates of their own, "data" and "labelled", so that their ratio does not depend on the batch sizes. To
    `fit_svi` say `data_plate="data"`.

    Args:
        vae: what a class and a style make of x.
        x: labelled data (:math:`N_l`, \*shape).
        y: their classes, integers in [0, C).
        batch_size: how many of them each step sees, drawn without replacement. Default: all.
        alpha: the weight of classification, 0 for J itself. Default 0.1, that of the paper.

    Raises:
        InputError: no labelled data, labels of another number or kind, outside the classes, numbers out of range.
    """

    def __init__(
        self, vae: "SemiSupervisedVAE", x: Tensor, y: Tensor, *, batch_size: int | None = None, alpha: float = 0.1
    ) -> None:
        _check(x, y, vae.classes)
        if not 0.0 <= alpha < math.inf:
            raise InputError("alpha", expected="a finite number, not negative", got=repr(alpha))
        if batch_size is not None and not 1 <= batch_size <= len(x):
            raise InputError("batch_size", expected=f"1 to {len(x)}, the labelled data points", got=str(batch_size))
        self.vae, self.x, self.y, self.batch_size, self.alpha = vae, x, y, batch_size or len(x), alpha

    def model(self, x: Tensor) -> None:
        """Unlabelled x (B, \\*shape) and a batch of the labelled data."""
        vae = self.vae
        data, plate = data_plate(len(x), vae.size), self._plate()
        with data:
            unlabelled = vae.code(len(x), None)
        with plate as rows:
            x_labelled, y = self._batch(rows)
            labelled = vae.code(len(y), y, f"{LABELLED}.")
        outputs, outputs_labelled = vae.decoded(unlabelled, labelled)
        with data:
            observe("x", vae.likelihood(outputs, x.shape[1:]), x)
        with plate:
            observe(f"{LABELLED}.x", vae.likelihood(outputs_labelled, x.shape[1:]), x_labelled)
            if self.alpha > 0.0:
                register(vae.classifier, f"{vae.name}.classifier")
                with poutine.scale(scale=self.alpha * (data.size + len(self.x)) / len(self.x)):
                    observe(f"{LABELLED}.class", dist.Categorical(logits=vae.logits(x_labelled)), y)

    def guide(self, x: Tensor) -> None:
        """Classes and styles of unlabelled x (B, \\*shape), and the styles of the labelled batch."""
        vae = self.vae
        vae.weights()
        with data_plate(len(x), vae.size):
            vae.recognise(x, None)
        with self._plate() as rows:
            vae.recognise(*self._batch(rows), f"{LABELLED}.")

    def _plate(self) -> pyro.plate:
        part = self.batch_size if self.batch_size < len(self.x) else None
        return pyro.plate(LABELLED, size=len(self.x), subsample_size=part)

    def _batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        whole = self.batch_size == len(self.x)
        return (self.x, self.y) if whole else (self.x[rows], self.y[rows])


def _check(x: Tensor, y: Tensor, classes: int) -> None:
    if len(x) == 0 or y.shape != x.shape[:1]:
        raise InputError(
            "labelled data", expected="at least one x, and a label for each",
            got=f"x of shape {tuple(x.shape)}, labels of shape {tuple(y.shape)}",
        )  # fmt: skip
    if y.is_floating_point() or y.is_complex():
        raise InputError("labels", expected=f"integers in [0, {classes})", got=str(y.dtype))
    outside = (y < 0) | (y >= classes)
    if bool(outside.any()):
        raise InputError("labels", expected=f"integers in [0, {classes})", got=f"the label {int(y[outside][0])}")

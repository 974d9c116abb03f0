"""The objective of semi-supervised learning: unlabelled data beside labelled ones, in one model and guide."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from pyro_bdl.errors import InputError
from pyro_bdl.latent.networks import (
    check_labels,
    check_numbers,
    check_shown,
    data_plate,
    observe,
    register,
)
from pyro_bdl.latent.semi_supervised import SemiSupervisedVAE
from pyro_bdl.number_checks import not_negative, require_count

LABELLED = "labelled"


class SemiSupervisedPair:
    r"""`model` and `guide` of a batch of unlabelled x beside a batch of labelled x and y.

    .. math:: \mathcal J^\alpha = \sum_{labelled} \mathcal L(x, y) + \sum_{unlabelled} \mathcal U(x)
              + \alpha N \, \frac 1{N_l} \sum_{labelled} -\log q(y \mid x)

    (Kingma et al. 2014, equations 8 and 9, with their :math:`\alpha N`, N all data points.) The last term is an
    observed site of the model: without it the classifier would learn from unlabelled data only. Both parts are scaled
    to their whole sets by plates of their own, "data" and "labelled", so that their ratio does not depend on the batch
    sizes. `data.BesideLabelled` makes such batches for `fit_svi`.

    Args:
        vae: what a class and a style make of x.
        size: :math:`N_l`, the labelled data points of which a call sees some. Default: those that it sees.
        alpha: the weight of classification, 0 for J itself. Default 0.1, that of the paper.

    Raises:
        InputError: numbers out of range; in a call, no labelled or no unlabelled data, labels of another number or
            kind, labels outside [0, C), more labelled data than there are, other data points shown than these.
    """

    def __init__(self, vae: SemiSupervisedVAE, *, size: int | None = None, alpha: float = 0.1) -> None:
        if size is not None:
            require_count("size", size)
        self.vae, self.size, self.alpha = vae, size, not_negative("alpha", alpha)

    def model(
        self,
        x: Tensor,
        x_labelled: Tensor,
        y: Tensor,
        shown: Tensor | None = None,
        shown_labelled: Tensor | None = None,
    ) -> None:
        """Unlabelled x (B, \\*shape), labelled x (B', \\*shape) and their classes y (B',).

        And of both, or of none, what the classifier is shown instead of x, see `SemiSupervisedVAE`.
        """
        vae = self.vae
        _check_shown(x, x_labelled, shown, shown_labelled)
        data, labelled = data_plate(len(x), vae.size), self._labelled_plate(x, x_labelled, y)
        with data:
            code = vae.code(len(x), None)
        with labelled:
            code_labelled = vae.code(len(y), y, f"{LABELLED}.")
        outputs, outputs_labelled = vae.decoded(code, code_labelled)
        with data:
            observe("x", vae.likelihood(outputs, x.shape[1:], code.rank), x)
        with labelled:
            law = vae.likelihood(outputs_labelled, x_labelled.shape[1:], code_labelled.rank)
            observe(f"{LABELLED}.x", law, x_labelled)
            if self.alpha > 0.0:
                register(vae.classifier, f"{vae.name}.classifier")
                with poutine.scale(scale=self.alpha * (data.size + labelled.size) / labelled.size):
                    logits = vae.logits(x_labelled if shown_labelled is None else shown_labelled)
                    observe(f"{LABELLED}.class", dist.Categorical(logits=logits), y)

    def guide(
        self,
        x: Tensor,
        x_labelled: Tensor,
        y: Tensor,
        shown: Tensor | None = None,
        shown_labelled: Tensor | None = None,
    ) -> None:
        """Classes and styles of the unlabelled, and styles of the labelled."""
        check_numbers(x, x_labelled, y, shown, shown_labelled)
        _check_shown(x, x_labelled, shown, shown_labelled)
        self.vae.weights()
        with data_plate(len(x), self.vae.size):
            self.vae.recognise(x, None, shown)
        with self._labelled_plate(x, x_labelled, y):
            self.vae.recognise(x_labelled, y, prefix=f"{LABELLED}.")

    def _labelled_plate(self, x: Tensor, x_labelled: Tensor, y: Tensor) -> pyro.plate:
        """The plate of the labelled batch, which of all labelled data it does not tell."""
        rows = len(x_labelled)
        if x_labelled.shape[1:] != x.shape[1:] or not 1 <= rows <= (self.size or rows):
            number = "at least one row" if self.size is None else f"1 to {self.size} rows"
            raise InputError(
                "labelled data",
                expected=f"{number} of shape {tuple(x.shape[1:])}",
                got=f"shape {tuple(x_labelled.shape)}",
            )
        check_labels(y, self.vae.classes, rows)
        return pyro.plate(LABELLED, size=self.size or rows, subsample=torch.arange(rows, device=x.device))


def _check_shown(x: Tensor, x_labelled: Tensor, shown: Tensor | None, shown_labelled: Tensor | None) -> None:
    if (shown is None) != (shown_labelled is None):
        got = "those without" if shown_labelled is None else "those with"
        raise InputError(
            "shown", expected="something of the data without labels and of those with, or of none", got=got
        )
    check_shown("shown", shown, len(x))
    check_shown("shown_labelled", shown_labelled, len(x_labelled))

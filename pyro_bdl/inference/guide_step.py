"""The gradient of one step for any guide."""

import math
from copy import copy
from typing import Any

import torch
from pyro import poutine

from pyro_bdl.data_plate import SubsampleIndices
from pyro_bdl.errors import NumericalError
from pyro_bdl.estimators.passes import dry_run
from pyro_bdl.inference.elbo import MeanFieldELBO
from pyro_bdl.inference.numbers import refuse_non_finite
from pyro_bdl.inference.steps import Loss, Step
from pyro_bdl.minibatches import Batch


class GuideStep(Step):
    """For any guide: `MeanFieldELBO` and autograd, or a Pyro ELBO that is handed over."""

    def __init__(self, model: Any, guide: Any, elbo: Any, plate: SubsampleIndices, first: Batch) -> None:
        self.model, self.guide, self.elbo, self.plate, self.kl_weight = model, guide, elbo, plate, 1.0
        if isinstance(elbo, MeanFieldELBO):  # a copy, so that the warm-up multiplies the caller's own weight
            own = elbo.kl_weight
            self.elbo = copy(elbo)
            self.elbo.kl_weight = lambda: self.kl_weight * (own() if callable(own) else own)
        with self._at(first), poutine.trace(param_only=True) as capture, torch.no_grad(), dry_run():
            self.elbo.loss(model, guide, *first.args)
        plate.require_plate()
        nodes: dict[str, Any] = dict(capture.trace.nodes)
        self.names = {node["value"].unconstrained(): name for name, node in nodes.items()}
        self.parameters = list(self.names)

    def __call__(self, batch: Batch, kl_weight: float) -> Loss:
        """One call of the ELBO."""
        for parameter in self.parameters:
            parameter.grad = None
        self.kl_weight = kl_weight
        with self._at(batch):
            total = float(self.elbo.loss_and_grads(self.model, self.guide, *batch.args))
        self._refuse_bad_gradients()
        if not math.isfinite(total):
            raise NumericalError(f"the loss is {total}")
        return Loss(total, float(self.elbo.kl) if isinstance(self.elbo, MeanFieldELBO) else math.nan)

    def _refuse_bad_gradients(self) -> None:
        sums = {name: p.grad.sum() for p, name in self.names.items() if p.grad is not None}
        if sums and not bool(torch.isfinite(torch.stack(list(sums.values()))).all()):
            for name, value in sums.items():
                refuse_non_finite(value, "the gradient", name)

    def _at(self, batch: Batch) -> SubsampleIndices:
        self.plate.set(batch)
        return self.plate

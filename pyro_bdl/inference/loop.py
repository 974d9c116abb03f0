"""The steps of a fit."""

import math
import time
from collections.abc import Callable
from typing import Any

import pyro
import torch
from tqdm import tqdm

from pyro_bdl.data_checks import ObservationCheck, check_finite, check_like
from pyro_bdl.errors import BDLError, InputError, NumericalError
from pyro_bdl.inference.shrinking import Shrinking
from pyro_bdl.inference.steps import Loss, Step
from pyro_bdl.minibatches import Batch, Minibatches


class Loop:
    """Goes through the data, an epoch at a time, with their learning rates and KL weights.

    In the first epoch all observations are checked, and bad ones leave the parameters as they were before the fit.

    Args:
        step: leaves gradients in the parameters.
        optimizer: of these parameters.
        batches: the data.
        first: the batch with which the step was made; the others must be of its kind.
        epochs, kl_warmup, schedule, progress: as in `fit_svi`.
        kl_weight: a function of the fraction of steps done.
        done: how many epochs a checkpoint has already.
        undo: makes the parameters what they were before the fit (and before a checkpoint was read).
        shrinking: of a fit whose network shrinks.
    """

    def __init__(
        self,
        step: Step,
        optimizer: torch.optim.Optimizer,
        batches: Minibatches,
        first: Batch,
        *,
        epochs: int,
        kl_weight: Callable[[float], float],
        kl_warmup: float,
        schedule: Callable[[float], float] | None,
        progress: bool,
        done: int,
        undo: Callable[[], None],
        shrinking: Shrinking | None = None,
    ) -> None:
        self.step, self.optimizer, self.batches, self.first = step, optimizer, batches, first
        self.epochs, self.schedule = epochs, schedule
        self.kl_weight, self.kl_warmup = kl_weight, kl_warmup
        self.rates = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
        for group, rate in zip(optimizer.param_groups, self.rates, strict=True):
            group["initial_lr"] = rate
        self.bar = tqdm(total=epochs, initial=done, desc="SVI", unit="epoch", disable=not progress)
        self.shrinking = shrinking
        self.undo: Callable[[], None] | None = undo

    def epoch(self, epoch: int) -> tuple[Loss, float, float]:
        """Go through the data once: the mean loss of its steps, the seconds, the KL weight of the last step."""
        try:
            if self.undo is None:
                result = self._epoch(epoch)
            else:
                with ObservationCheck():
                    result = self._epoch(epoch)
        except InputError:
            if self.undo is not None:
                self.undo()
            raise
        self.undo = None
        self.bar.update()
        loss = result[0]
        told = {"loss": loss.total} if math.isnan(loss.kl) else {"loss": loss.total, "kl": loss.kl}
        self.bar.set_postfix({name: f"{value:.4g}" for name, value in told.items()}, refresh=False)
        return result

    def _epoch(self, epoch: int) -> tuple[Loss, float, float]:
        begin, count, weight = time.perf_counter(), 0, 1.0
        total = kl = 0.0
        per_epoch = self.batches.batches_per_epoch
        with pyro.validation_enabled(False):
            if self.shrinking is not None:
                self.step = self.shrinking.begin_epoch(epoch, self.optimizer)
            for batch in self.batches:
                fraction = epoch + (count / per_epoch if per_epoch else 0.0)
                warmed = min(1.0, fraction / self.kl_warmup) if self.kl_warmup else 1.0
                weight = warmed * self.kl_weight(fraction / self.epochs)
                if self.schedule is not None:
                    factor = self.schedule(fraction / self.epochs)
                    for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
                        group["lr"] = rate * factor
                loss = self._step(batch, weight, f"step {count} of epoch {epoch}")
                total, kl, count = total + loss.total, kl + loss.kl, count + 1
        if count == 0:
            raise InputError("data", expected="at least one batch an epoch", got="none")
        return Loss(total / count, kl / count), time.perf_counter() - begin, weight

    def _step(self, batch: Batch, weight: float, where: str) -> Loss:
        if self.undo is not None:
            check_like(batch, self.first)
        try:
            loss = self.step(batch, weight)
        except NumericalError as error:
            check_finite(batch)
            raise NumericalError(f"{error}, at {where}; the parameters are those before it") from error
        except BDLError:
            raise
        except (RuntimeError, ValueError, IndexError):
            check_like(batch, self.first)
            readable(lambda: self.step(batch, weight), f"the batch at {where}")
            raise
        self.optimizer.step()
        return loss


def readable(run: Callable[[], Any], what: str) -> Any:
    """Run with the observations checked; what torch or Pyro refuse becomes an `InputError`.

    Pyro's own validation is off: it takes parameters of a distribution that are NaN for bad input, not for a numerical
    failure of the model.
    """
    try:
        with pyro.validation_enabled(False), ObservationCheck():
            return run()
    except BDLError:
        raise
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, IndexError) as error:
        raise InputError(what, expected="data that the model takes", got=str(error)) from error

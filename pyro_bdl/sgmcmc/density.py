"""The density that a chain samples, as the kernel asks for it, with words for what goes wrong."""

import math
from collections.abc import Sequence

import pyro
import torch
from torch import Tensor

from pyro_bdl.errors import BDLError, NumericalError
from pyro_bdl.minibatches import Batch
from pyro_bdl.sgmcmc.flat import Number
from pyro_bdl.sgmcmc.log_joint import LogJointGradient


class Density:
    """The log joint density and its gradient at flat parameters, by a batch.

    Args:
        target: what computes them.
        chains: see below.

    Attributes:
        step: the number of the present update, for messages.
        chains: the numbers of the chains whose parameters come next, for messages; empty where there is one alone.
    """

    def __init__(self, target: LogJointGradient, chains: Sequence[int] = ()) -> None:
        self.target, self.step, self.chains = target, 0, chains
        self._position = torch.empty(0)
        self._views: dict[str, Tensor] = {}

    def views(self, position: Tensor) -> dict[str, Tensor]:
        """Parts of the flat parameters by site, made once for each tensor."""
        if position is not self._position:
            self._position, self._views = position, self.target.layout.views(position)
        return self._views

    def __call__(
        self, position: Tensor, batch: Batch | None, *, check: bool = False, refuse: bool = True
    ) -> tuple[Number, Tensor]:
        """The density and its gradient, in a tensor that the next call reuses.

        Args:
            position: of shape (parameters,), or (chains, parameters).
            batch: the data; `None`: the program's own.
            check: see `LogJointGradient.evaluate`.
            refuse: a density that is not finite.

        Raises:
            NumericalError: it is not finite; the site and, of many, the chain are named.
        """
        values = self.views(position)
        with pyro.validation_enabled(False):
            try:
                log_joint = self.target.evaluate(position, values, batch, check=check)
            except BDLError:
                raise
            except (RuntimeError, IndexError, ValueError):
                if position.dim() == 1:
                    self.target.log_densities(values, batch)
                raise
            if refuse and not _is_finite(log_joint):
                chain = None if isinstance(log_joint, float) else int((~log_joint.isfinite()).nonzero()[0])
                values, batch = _of_chain(chain, self.target.layout.views(position), batch)
                raise self._error(self.target.log_densities(values, batch), "log density", chain)
        return log_joint, self.target.gradient

    def require_finite(self, flat: Tensor, what: str) -> None:
        """Refuse parameters, or a gradient, that are not all finite.

        Raises:
            NumericalError: the site and, of many, the chain are named.
        """
        if not math.isfinite(float(flat.sum())) and not bool(torch.isfinite(flat).all()):
            chain = None if flat.dim() == 1 else int((~flat.isfinite().all(-1)).nonzero()[0])
            raise self._error(_of_chain(chain, self.target.layout.views(flat), None)[0], what, chain)

    def _error(self, values: dict[str, Tensor], what: str, chain: int | None) -> NumericalError:
        bad = [name for name, value in values.items() if not torch.isfinite(value).all()]
        number = self.chains[chain or 0] if self.chains else chain
        return NumericalError(
            f"update {self.step}{'' if number is None else f' of chain {number}'}: the {what} of "
            f"{', '.join(bad) or 'the model'} is not finite; the parameters before that update are kept. The step size "
            "may be too large, or the initial values too far out"
        )


def _is_finite(log_joint: Number) -> bool:
    return math.isfinite(log_joint) if isinstance(log_joint, float) else bool(log_joint.isfinite().all())


def _of_chain(
    chain: int | None, values: dict[str, Tensor], batch: Batch | None
) -> tuple[dict[str, Tensor], Batch | None]:
    """One chain's part of many's."""
    if chain is None:
        return values, batch
    if batch is not None and batch.indices is not None and batch.indices.dim() > 1:
        batch = Batch(tuple(t[chain] for t in batch.args), batch.indices[chain])
    return {name: value[chain] for name, value in values.items()}, batch

"""Every kernel, with the preconditioner all but switched off, so that one law holds for all."""

from functools import partial
from typing import Any

from pyro_bdl.sgmcmc import SGHMC, SGLD, SGNHT, Langevin, PreconditionedSGLD

KERNELS: dict[str, Any] = {
    "SGLD": SGLD,
    "PreconditionedSGLD": partial(PreconditionedSGLD, adapt=0, offset=1e3),  # all but the same step for all
    "SGHMC": SGHMC,
    "SGNHT": SGNHT,
    "Langevin": Langevin,
    "Langevin without the test": partial(Langevin, metropolis=False),
}

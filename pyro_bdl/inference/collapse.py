"""A fit whose latent variables say nothing of the data."""

import warnings
from typing import Any

import torch

from pyro_bdl.data_plate import SubsampleIndices
from pyro_bdl.errors import PosteriorCollapseWarning
from pyro_bdl.estimators.passes import dry_run
from pyro_bdl.latent_kl import ACTIVE, latent_kl
from pyro_bdl.minibatches import Batch


def warn_of_collapse(model: Any, guide: Any, plate: SubsampleIndices, batch: Batch) -> None:
    """Warn if each latent number of the data points has a KL near zero: the posterior is the prior.

    Args:
        model: as fitted.
        guide: as fitted.
        plate: tells the data plate the batch.
        batch: on which the KL is averaged.
    """
    plate.set(batch)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), plate, dry_run():
        used = latent_kl(model, guide, *batch.args)
    if used and all(bool((kl < ACTIVE).all()) for kl in used.values()):
        most = max(float(kl.max()) for kl in used.values())
        warnings.warn(
            f"the posterior has collapsed: no latent number of {', '.join(used)} has a KL above {most:.2g} nats, so "
            "that the model does without them. Let the KL come in slowly (kl_warmup=), give each number some nats free "
            "(elbo=MeanFieldELBO(free_bits=0.1)), or take a decoder that can do less on its own",
            PosteriorCollapseWarning, stacklevel=3,
        )  # fmt: skip

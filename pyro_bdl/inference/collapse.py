"""A fit whose latent variables say nothing of the data."""

import warnings
from typing import Any

import torch
from torch import Tensor

from pyro_bdl.data_plate import SubsampleIndices
from pyro_bdl.errors import PosteriorCollapseWarning
from pyro_bdl.estimators.passes import dry_run
from pyro_bdl.latent_kl import ACTIVE, kl_by_site, of_data_points
from pyro_bdl.minibatches import Batch
from pyro_bdl.record import Node, Record
from pyro_bdl.site_kl import kl_term, turned


def warn_of_collapse(model: Any, guide: Any, plate: SubsampleIndices, batch: Batch) -> None:
    """Warn if the KL of the data points' latent variables is near zero: the posterior is the prior.

    Each latent number is looked at. With several stochastic layers, whose numbers have no KL of their own, it is the
    sum over all of them, by draws: where it is small, K nats, with a variance of only 2K a data point. It is near zero
    below 0.01 nats a number, or half a nat in all, which one number that is used has many times over.

    Args:
        model: as fitted.
        guide: as fitted.
        plate: tells the data plate the batch.
        batch: on which the KL is averaged.
    """
    plate.set(batch)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), plate, dry_run(), torch.no_grad():
        guide_trace = Record.of(guide, *batch.args)
        model_trace = Record.of(model, *batch.args, answers=guide_trace.nodes)
        pairs = of_data_points(model_trace, guide_trace)
        layered = turned(model_trace, guide_trace) & pairs.keys()
        found = _of_layers(pairs) if layered else _of_numbers(kl_by_site(model_trace, guide_trace))
    if found:
        warnings.warn(
            f"the posterior has collapsed: {found}, so that the model does without them. Let the KL come in slowly "
            "(kl_warmup=), give each number some nats free (elbo=MeanFieldELBO(free_bits=0.1)), or take a decoder that "
            "can do less on its own",
            PosteriorCollapseWarning, stacklevel=3,
        )  # fmt: skip


def _of_numbers(used: dict[str, Tensor]) -> str:
    """What is near zero, if all is."""
    if not used or any(bool((kl >= ACTIVE).any()) for kl in used.values()):
        return ""
    most = max(float(kl.max()) for kl in used.values())
    return f"no latent number of {', '.join(used)} has a KL above {most:.2g} nats"


def _of_layers(pairs: dict[str, tuple[Node, Node]]) -> str:
    """The same of stochastic layers, whose numbers are judged together."""
    total = sum(float(kl_term(*pair, drawn=True).mean()) for pair in pairs.values())
    limit = min(0.5, ACTIVE * sum(node["fn"].event_shape.numel() for node, _ in pairs.values()))
    told = f"the latent numbers of {', '.join(pairs)} have together a KL below {limit:.2g} nats"
    return told if total < limit else ""

"""How much each latent number of a data point is used: its KL, averaged over the data."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_bdl.record import Node, Record, latent
from pyro_bdl.site_kl import kl_of_numbers, turned

ACTIVE = 0.01


@torch.no_grad()
def latent_kl(model: Callable[..., Any], guide: Callable[..., Any], *data: Any) -> dict[str, Tensor]:
    r"""The KL in nats of each latent number, :math:`\frac 1N \sum_n KL(q(z_{nj} \mid x_n)\, \|\, p(z_{nj}))`.

    A number that the model does not use has the prior for its posterior, and a KL of zero; the literature counts those
    above 0.01 as active (after Burda, Grosse & Salakhutdinov 2016, section 5.2, who take a variance).

    With several stochastic layers only the sum over all of them is a KL. A layer's number is its share of that sum,
    which may be negative below the top: that of the draw where there is no closed form, see `pyro_bdl.site_kl.turned`.

    Args:
        model: with latent variables in a data plate; those whose KL has no rule are left out.
        guide: its guide.
        data: what both are called with.

    Returns:
        By site the KL of each number of one data point, (\*event,).

    >>> import pyro_bdl as bdl
    >>> vae = bdl.VariationalAutoencoder(torch.nn.Linear(6, 4), torch.nn.Linear(2, 6), 2)
    >>> {site: kl.shape for site, kl in latent_kl(vae.model, vae.guide, torch.ones(5, 6)).items()}
    {'z': torch.Size([2])}
    """
    guide_trace = Record.of(guide, *data)
    model_trace = Record.of(model, *data, answers=guide_trace.nodes)
    return kl_by_site(model_trace, guide_trace)


def kl_by_site(model_trace: Any, guide_trace: Any) -> dict[str, Tensor]:
    """What `latent_kl` gives, of a model and guide that were run."""
    only_drawn, found = turned(model_trace, guide_trace), {}
    for name, pair in of_data_points(model_trace, guide_trace).items():
        kl = kl_of_numbers(*pair, drawn=name in only_drawn)
        if kl is not None:
            found[name] = kl.reshape(-1, *pair[0]["fn"].event_shape).mean(0)
    return found


def of_data_points(model_trace: Any, guide_trace: Any) -> dict[str, tuple[Node, Node]]:
    """Each continuous latent site within plates: its nodes in model and guide, in the guide's order."""
    nodes = {node["name"]: node for node in latent(model_trace)}
    return {
        name: (nodes[name], posterior)
        for name, posterior in guide_trace.nodes.items()
        if name in nodes and posterior["cond_indep_stack"] and posterior["value"].is_floating_point()
    }

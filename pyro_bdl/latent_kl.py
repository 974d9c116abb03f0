"""How much each latent number of a data point is used: its KL, averaged over the data."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_bdl.record import Record
from pyro_bdl.site_kl import base_law, closed_form_kl

ACTIVE = 0.01


@torch.no_grad()
def latent_kl(model: Callable[..., Any], guide: Callable[..., Any], *data: Any) -> dict[str, Tensor]:
    r"""The KL in nats of each latent number, :math:`\frac 1N \sum_n KL(q(z_{nj} \mid x_n)\, \|\, p(z_{nj}))`.

    A number that the model does not use has the prior for its posterior, and a KL of zero; the literature counts those
    above 0.01 as active (after Burda, Grosse & Salakhutdinov 2016, section 5.2, who take a variance).

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
    found = {}
    for name, posterior in guide_trace.nodes.items():
        node = model_trace.nodes.get(name)
        if node is None or not posterior["cond_indep_stack"]:
            continue
        q: Any = posterior["fn"]
        p: Any = node["fn"]
        kl = closed_form_kl(base_law(q), base_law(p)) if posterior["value"].is_floating_point() else None
        if kl is not None:
            found[name] = kl.reshape(-1, *p.event_shape).mean(0)
    return found

"""Small fits that shrink: programs with units that can be switched off, and one to be killed:
`python -m tests.inference.shrunk FILE EPOCHS`.
"""

import hashlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyro_bdl as bdl
from pyro_bdl.compression.units.finding import find_units
from pyro_bdl.inference import Shrink
from pyro_bdl.priors import (
    ByName,
    Gaussian,
    GroupHorseshoe,
    GroupNormalJeffreys,
    Laplace,
    LogUniform,
    RegularizedHorseshoe,
)

N, B = 40, 20


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def convolutional() -> nn.Sequential:
    return nn.Sequential(
        nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 4, 3), nn.Tanh(), nn.Conv1d(4, 4, 2), nn.Tanh(), nn.Flatten(),
        nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 3),
    )  # fmt: skip


PRIORS: dict[str, Callable[[], Any]] = {
    "Gaussian": lambda: Gaussian(0.8),
    "fan-in": lambda: Gaussian(1.5, fan_in=True),
    "LogUniform": LogUniform,
    "GroupNormalJeffreys": GroupNormalJeffreys,
    "GroupHorseshoe": GroupHorseshoe,
    "decomposed": lambda: GroupHorseshoe(half_cauchy="decomposed"),
    "regularised": RegularizedHorseshoe,
    "by name": lambda: ByName({"*.bias": Gaussian(2.0), "[01].*": LogUniform(), "*": GroupNormalJeffreys()}),
}


def data(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(N, 6, generator=generator, dtype=torch.float64)
    return x.to(dtype), (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


def program(prior: Any, net: nn.Module, **options: Any) -> tuple[Any, Any, Any]:
    """The network as a program, its classifier and a guide."""
    bnn = bdl.BayesianModule(net, prior, **options)
    model = bdl.Classifier(bnn, size=N)
    return bnn, model, bdl.guides.AutoMeanField(model)


def off_masks(bnn: Any, masks: Mapping[str, Any] | None = None) -> tuple[Any, dict[str, Tensor]]:
    """The units of the network, and masks without the first and the last of each group, or these."""
    units = find_units(bnn.net, data(bnn.weights[0].value.dtype)[0][:2])
    if masks is None:
        masks = {
            name: (torch.arange(g.size) > 0) & (torch.arange(g.size) < g.size - 1) for name, g in units.groups.items()
        }
    return units, units.complete(units.with_channels(units.complete(masks)))


@torch.no_grad()
def switch_off(guide: Any, units: Any, kept: Mapping[str, Tensor], *, log_variance: float | None = None) -> None:
    """Means 0 for all weights of the units that are not kept, and their biases."""
    sites = dict(zip([s.name for s in guide.sites], guide.sites, strict=True))
    for name, group in units.groups.items():
        for member in group.of("producer", "bias", "channel", "consumer"):
            site = sites.get(f"{member.name}.raw", sites.get(member.name))
            if site is None:
                continue  # not random
            for flat, value in ((guide.loc, 0.0), (guide.log_variance, log_variance)):
                if value is not None:
                    part = flat[site.start : site.start + site.size].view(site.shape)
                    part.index_fill_(member.dim, member.cut(kept[name]), value)


def off_after(epoch: int, units: Any, kept: Mapping[str, Tensor]) -> Callable[[Any], None]:
    """A callback that switches units off."""
    return lambda told: switch_off(told.guide, units, kept) if told.epoch == epoch else None


class OneScale(Gaussian):
    """A prior whose scale is one latent number for all weights: what is cut tells something of what is left."""

    def bind(self, weights: Any) -> Any:
        def sample() -> dict[str, Tensor]:
            tau = pyro.sample("tau", dist.LogNormal(weights[0].value.new_zeros(()), 1.0))
            return {
                w.name: pyro.sample(w.name, dist.Normal(torch.zeros_like(w.value), tau).to_event(w.value.dim()),
                                    infer=w.start)
                for w in weights
            }  # fmt: skip

        return sample


class ByShape(Laplace):
    """A prior whose scale follows from the shape at hand, not from the whole's."""

    def distribution(self, weight: Any) -> Any:
        return dist.Laplace(weight.value.new_zeros(()), weight.value.new_tensor(1.0 / weight.value.shape[-1]))


def run(path: Any, epochs: int, **options: Any) -> tuple[bdl.Fit, str]:
    """A fit that shrinks more than once, and a digest of its parameters and losses."""
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 10), nn.Tanh(), nn.Linear(10, 3))
    _, model, guide = program(GroupNormalJeffreys(), net)
    x, y = data(torch.float32)
    given: dict[str, Any] = {
        "epochs": epochs, "batch_size": 16, "seed": 3, "shrink": Shrink(every=1, threshold=0.0), "progress": False,
        "optimizer": lambda p: torch.optim.Adam(p, lr=4e-2),
    }  # fmt: skip
    fit = bdl.fit_svi(model, guide, (x, y), checkpoint=path, **given | options)
    state = torch.cat([p.detach() for p in guide.parameters()]).numpy().tobytes()
    kept = [mask.tolist() for mask in fit.kept.values()]
    return fit, hashlib.sha256(state + repr((fit.losses, fit.kls, kept)).encode()).hexdigest()


if __name__ == "__main__":
    print(run(sys.argv[1], int(sys.argv[2]))[1], flush=True)

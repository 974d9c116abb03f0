"""A fit with a checkpoint, as a program to be killed: `python -m tests.inference.checkpointed FILE EPOCHS`."""

import hashlib
import sys
from typing import Any

import torch
from torch import nn

import pyro_bdl as bdl

X = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


def run(path: Any, epochs: int, **options: Any) -> tuple[bdl.Fit, str]:
    """The fit, and a digest of its parameters and losses."""
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    model = bdl.Classifier(bdl.BayesianModule(net))
    guide = bdl.guides.AutoMeanField(model)
    given: dict[str, Any] = {"epochs": epochs, "batch_size": 16, "seed": 3, "kl_warmup": 5.0}
    fit = bdl.fit_svi(model, guide, (X, Y), checkpoint=path, progress=False, **given | options)
    state = torch.cat([p.detach() for p in guide.parameters()]).numpy().tobytes()
    return fit, hashlib.sha256(state + repr(fit.losses).encode()).hexdigest()


if __name__ == "__main__":
    print(run(sys.argv[1], int(sys.argv[2]))[1], flush=True)

"""Making a step must leave a network's running statistics alone."""

from typing import Any

import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import nn

import pyro_bdl as bdl


@pytest.mark.parametrize("make_guide", [bdl.guides.AutoMeanField, AutoNormal])
def test_only_steps_update_running_statistics(make_guide: Any) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model = bdl.Classifier(bdl.BayesianModule(net, select=["0.*", "2.*"]))
    x, y = torch.randn(12, 3), torch.randint(2, (12,))
    guide = make_guide(model)
    if make_guide is AutoNormal:
        guide(x, y)
        net[1].reset_running_stats()
    bdl.fit_svi(model, guide, (x, y), epochs=1, batch_size=4, estimator="plain", progress=False)
    assert int(net[1].num_batches_tracked) == 3

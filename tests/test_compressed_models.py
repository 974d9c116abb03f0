"""The files in models/compressed give the networks whose test errors are recorded beside them."""

import json
from pathlib import Path

import pytest
import torch

import pyro_bdl as bdl
from models.competitors.training import error
from models.compression_settings import NETWORKS
from pyro_bdl.errors import FileUnavailableError

FOLDER = Path(__file__).parents[1] / "models" / "compressed"
RECORDS = json.loads((FOLDER / "records.json").read_text())


def test_each_file_is_recorded() -> None:
    assert {path.name for path in FOLDER.glob("*.bdl")} == set(RECORDS)


@pytest.mark.parametrize("name", RECORDS)
def test_reload(name: str) -> None:
    record = RECORDS[name]
    net = NETWORKS[record["net"]](record["image_shape"], 10)
    small = bdl.load_compressed(FOLDER / name, net)
    assert (FOLDER / name).stat().st_size == record["bytes"]
    assert small(torch.zeros(1, *record["image_shape"])).shape == (1, 10)
    try:
        data = bdl.data.load(record["data"], download=False, seed=0)
    except FileUnavailableError:
        pytest.skip(f"{record['data']} is not on this machine")
    # Sums in another order may turn the class of an image whose two best logits are equal to rounding.
    assert abs(error(small, (data.x_test, data.y_test)) - record["test_error"]) <= 2 / len(data.x_test)

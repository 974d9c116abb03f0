"""Each test has its own random state and parameter store: import the fixture into a `conftest.py` or a test file."""

from collections.abc import Iterator

import pyro
import pytest
import torch


@pytest.fixture(autouse=True)
def fresh_state() -> Iterator[None]:
    with torch.random.fork_rng(), pyro.get_param_store().scope():
        torch.seed()
        yield

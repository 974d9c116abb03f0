import warnings
from typing import Any

import pyro
import pytest
import torch


@pytest.fixture(scope="session")
def az() -> Any:
    """ArviZ 0.23, whose import announces the move to 1.x once a day."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import arviz
    if int(arviz.__version__.split(".")[0]) >= 1:
        pytest.skip("ArviZ 1.x is installed, which has no InferenceData")
    return arviz


@pytest.fixture(autouse=True)
def fresh_state() -> Any:
    """Each test starts with an empty parameter store and leaves the random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pyro.clear_param_store()
        yield
        pyro.clear_param_store()

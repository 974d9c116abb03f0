"""Survival data: the parts, times of 0, subjects in both parts, the simulation's law, damaged files."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch

from pyro_bdl.data import GaussianRisk, Subjects, load_survival, seen_before
from pyro_bdl.data.files import Store
from pyro_bdl.data.formats import content_digest
from pyro_bdl.data.survival import SurvivalSet, read_survival
from pyro_bdl.errors import CorruptFileError, FileUnavailableError, InputError
from tests.data.small import npz, put
from tests.data.test_published_files import FOLDER, needs

COUNTS = {"metabric": (1523, 381, 9), "support": (7098, 1775, 14), "whas": (1310, 328, 6)}


def small(tmp_path: Path, **changed: Any) -> tuple[SurvivalSet, Store]:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for part, count in (("train", 8), ("test", 4)):
        arrays[f"x_{part}"] = rng.normal(size=(count, 2)).astype("<f4")
        arrays[f"time_{part}"] = rng.uniform(1, 2, count).astype("<f4")
        arrays[f"event_{part}"] = (rng.random(count) < 0.5).astype("u1")
    arrays["time_test"][1] = 0.0
    arrays |= changed
    put(tmp_path, "survival/small.npz", npz(**arrays))
    return SurvivalSet("small", "days", 8, 4, 2, content_digest(arrays)), Store(tmp_path, fetch=False)


def test_a_time_of_zero_is_moved(tmp_path: Path) -> None:
    record, store = small(tmp_path)
    train, test = read_survival(record, store)
    assert float(test.time[1]) == float(train.time.min()) / 2
    assert train.event.dtype == torch.bool
    assert train.x.dtype == torch.float32


def test_other_numbers_are_refused(tmp_path: Path) -> None:
    record, store = small(tmp_path)
    with pytest.raises(CorruptFileError, match="sha256"):
        read_survival(record._replace(content="00"), store)
    put(tmp_path, "survival/small.npz", b"PK no npz")
    with pytest.raises(CorruptFileError, match="survival/small"):
        read_survival(record, store)


@pytest.mark.parametrize(
    "changed", [{"event_train": np.full(8, 2, "u1")}, {"time_test": np.array([1, 2, -1, 3], "<f4")}]
)
def test_numbers_that_cannot_be(tmp_path: Path, changed: dict[str, Any]) -> None:
    with pytest.raises(CorruptFileError, match="events 0 or 1"):
        read_survival(*small(tmp_path, **changed))


@pytest.mark.parametrize("name", COUNTS)
def test_published_files(name: str) -> None:
    needs("survival")
    train, test, columns = COUNTS[name]
    data = load_survival(name, root=FOLDER)
    assert len(data.validation.time) == train // 5
    assert [len(part.time) for part in (data.train, data.test)] == [train - train // 5, test]
    assert data.train.x.shape[1] == columns
    for part in (data.train, data.validation, data.test):
        assert bool((part.time > 0).all())
    share = [float(part.event.float().mean()) for part in (data.train, data.validation)]
    assert share[0] == pytest.approx(share[1], abs=2 / len(data.validation.time))
    standard = data.standardized().train.x
    torch.testing.assert_close(standard.mean(0), torch.zeros(columns), atol=1e-4, rtol=0)
    torch.testing.assert_close(standard.std(0, correction=0), torch.ones(columns), atol=1e-4, rtol=0)


def test_what_is_known_of_the_published_files() -> None:
    """Seven of ten test subjects of WHAS stand in its training part; one of METABRIC is censored at 0."""
    needs("survival")
    whas, metabric = (load_survival(name, root=FOLDER, validation=0) for name in ("whas", "metabric"))
    assert float(seen_before(whas.test, whas.train).double().mean()) == pytest.approx(229 / 328)
    assert not bool(seen_before(metabric.test, metabric.train).any())
    first = metabric.test.time.argmin()
    assert float(metabric.test.time[first]) == float(metabric.train.time.min()) / 2
    assert not bool(metabric.test.event[first])


def test_the_simulation_has_its_law() -> None:
    """The cumulative hazard at the time of an event is Exponential(1), cut at the end of the study."""
    law = GaussianRisk(censored=0.0)
    x, time, event = law.sample(20_000, seed=0)
    assert bool(event.all())
    hazard = law.log_hazard_ratio(x).exp()
    uniform, wrong = ((-factor * hazard * time / 5).exp().double().numpy() for factor in (1.0, 1.05))
    assert scipy.stats.kstest(uniform, "uniform").pvalue > 1e-6
    assert scipy.stats.kstest(wrong, "uniform").pvalue < 1e-6
    expected = torch.stack([torch.ones(3), (-hazard[:3]).exp()], 1)
    torch.testing.assert_close(law.survival(x[:3], torch.tensor([0.0, 5.0])), expected)
    cut = GaussianRisk(censored=0.3).sample(1000, seed=0)
    assert float(cut[2].float().mean()) == pytest.approx(0.7)
    assert bool((cut[1][~cut[2]] == cut[1].max()).all())
    assert float(law.log_hazard_ratio(torch.ones(1, 10))) == pytest.approx(math.log(5) * math.exp(-4))


def test_the_seed_decides() -> None:
    state = torch.get_rng_state()
    first, again, other = (load_survival("synthetic", seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.test.x, again.test.x)
    assert not torch.equal(first.test.x, other.test.x)
    assert torch.equal(torch.get_rng_state(), state)
    double = load_survival("synthetic", seed=3, dtype=torch.float64, validation=0)
    assert len(double.train.time) == 4000
    assert double.train.x.dtype == double.train.time.dtype == torch.float64


def test_seen_before_wants_all_to_be_the_same() -> None:
    time, event = torch.tensor([1.0, 1.0, 2.0, 1.0]), torch.tensor([1, 0, 1, 1]).bool()
    one = Subjects(torch.tensor([[1.0, 2.0]] * 4), time, event)
    assert seen_before(one, Subjects(*(column[:1] for column in one))).tolist() == [True, False, False, True]


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "an unknown name": (lambda: load_survival("gbsg"), "one of metabric, support, whas, synthetic"),
    "half precision": (lambda: load_survival("synthetic", dtype=torch.float16), "dtype: expected"),
    "too large a validation part": (lambda: load_survival("synthetic", validation=4000), "validation: expected"),
    "no subjects": (lambda: GaussianRisk().sample(0, seed=0), "size: expected at least 1"),
    "one covariate": (lambda: GaussianRisk(covariates=1), "covariates: expected at least 2"),
    "all censored": (lambda: GaussianRisk(censored=1.0), "a share in"),
    "no width": (lambda: GaussianRisk(width=0.0), "positive peak, width"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    run, message = BAD[case]
    with pytest.raises(InputError, match=message):
        run()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileUnavailableError, match="DeepSurv on GitHub"):
        load_survival("whas", root=tmp_path)

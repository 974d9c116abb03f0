"""Survival data by name: times of events, some of them censored."""

import os
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_bdl.data.dataset import Standardizer
from pyro_bdl.data.files import Store, data_folder
from pyro_bdl.data.formats import ArraySpec, content_digest, npz_limit, read_npz, require_digest
from pyro_bdl.data.gaussian_risk import GaussianRisk
from pyro_bdl.data.splits import held_out
from pyro_bdl.errors import CorruptFileError, InputError


class Subjects(NamedTuple):
    """One part of a survival data set, in the order of a model's arguments.

    Attributes:
        x: covariates (N, D).
        time: of the event, or until which there was none, (N,), positive.
        event: True for an event, False for a censored time, (N,).
    """

    x: Tensor
    time: Tensor
    event: Tensor


@dataclass(frozen=True, eq=False, repr=False)
class SurvivalData:
    """What `load_survival` returns, as tensors on the CPU; covariates are raw."""

    name: str
    unit: str
    train: Subjects
    validation: Subjects
    test: Subjects

    def __repr__(self) -> str:
        sizes = ", ".join(f"{part} {len(getattr(self, part).time)}" for part in ("train", "validation", "test"))
        return f"SurvivalData({self.name!r}, {self.train.x.shape[1]} covariates, {sizes}, times in {self.unit})"

    def standardized(self) -> "SurvivalData":
        """The same with covariates in standard units of the training part; times stay in their unit."""
        scale = Standardizer.fit(self.train.x)
        parts = {part: getattr(self, part) for part in ("train", "validation", "test")}
        return replace(self, **{part: of._replace(x=scale(of.x)) for part, of in parts.items()})


class SurvivalSet(NamedTuple):
    """What is known of a file with survival data before it is read.

    `content` is the sha256 of the arrays (`formats.content_digest`), not of the file, which may be packed anew.
    """

    name: str
    unit: str
    train: int
    test: int
    columns: int
    content: str

    @property
    def path(self) -> str:
        """Below the data folder."""
        return f"survival/{self.name}.npz"

    @property
    def source(self) -> str:
        """Where it comes from, in words."""
        return (
            f"experiments/data/{self.name} of jaredleekatzman/DeepSurv on GitHub, as an npz file of the arrays x, time "
            f"(float32) and event (uint8) of both parts: x_train, ..., event_test"
        )


_SETS = {
    each.name: each
    for each in (
        SurvivalSet(
            "metabric", "months", 1523, 381, 9, "5d18c53ee485c1bbc8d80357033c14344de2b1ab7633136b2e94198f76471a09"
        ),
        SurvivalSet(
            "support", "days", 7098, 1775, 14, "2f16ff8daf13401b4b39369fa81c995cd74b253137b5d66f5aad75018f300da4"
        ),
        SurvivalSet("whas", "days", 1310, 328, 6, "78c1ed0b857d9736216491eae0898a203404e33fa7123a9c664d4b84b7d84904"),
    )
}
SURVIVAL_NAMES = (*_SETS, "synthetic")
_SYNTHETIC_TRAIN, _SYNTHETIC_TEST = 4000, 1000


def load_survival(
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    validation: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> SurvivalData:
    """Loads survival data by their name, with the division of Katzman et al. (2018, "DeepSurv").

    | name | subjects (training / test) | events | covariates | times |
    |---|---|---|---|---|
    | `metabric`: breast cancer | 1523 / 381 | 58 % | 9 | months |
    | `support`: seriously ill adults in hospital | 7098 / 1775 | 68 % | 14 | days |
    | `whas`: after a heart attack (Worcester) | 1310 / 328 | 42 % | 6 | days |
    | `synthetic`: `GaussianRisk`, drawn by the seed | 4000 / 1000 | 90 % | 10 | without unit |

    The first three are read from `survival/<name>.npz` below `root`, else below the folder in the variable
    `PYRO_BDL_DATA`, else in the user's cache; there is no pinned download of them. What differs from the pinned
    content is refused.

    Two things to know of these data. One test subject of METABRIC is censored at time 0, at which no law of positive
    times has a density: such times are moved to half of the smallest positive time of the training part (it is then
    censored before any event, and weighs nothing in any metric). And 70 % of the test subjects of WHAS stand in its
    training part too, with the same covariates and the same time: whatever is said of that test part is in good part
    said of memory. `seen_before` finds them.

    Args:
        name: one of the names above.
        root: the data folder.
        validation: subjects held out of the training part, events and censored ones in their proportion. Default: a
            fifth of it.
        seed: of the validation part, and of the synthetic data; 0 to 2^32 - 1.
        dtype: of covariates and times, float32 (default) or float64.

    Raises:
        InputError: an unknown name, a bad option, a link that leads out of `root`.
        CorruptFileError: the file is not the one expected; nothing of it was used.
        FileUnavailableError: it is missing; the message says where to put it.

    >>> data = load_survival("synthetic")
    >>> data
    SurvivalData('synthetic', 10 covariates, train 3200, validation 800, test 1000, times in no unit)
    """
    if name not in SURVIVAL_NAMES:
        raise InputError("name of the survival data", expected="one of " + ", ".join(SURVIVAL_NAMES), got=repr(name))
    if dtype not in (torch.float32, torch.float64):
        raise InputError("dtype", expected="torch.float32 or torch.float64", got=repr(dtype))
    if name == "synthetic":
        law = GaussianRisk()
        drawn = law.sample(_SYNTHETIC_TRAIN + _SYNTHETIC_TEST, seed=seed)
        train, test = (
            Subjects(*(column[part] for column in drawn))
            for part in (slice(_SYNTHETIC_TRAIN), slice(_SYNTHETIC_TRAIN, None))
        )
        unit = "no unit"
    else:
        record = _SETS[name]
        train, test = read_survival(record, Store(data_folder(root), fetch=False))
        unit = record.unit
    count = len(train.time) // 5 if validation is None else validation
    kept, held = held_out(train.event.numpy(), count, seed=seed, stratify=True, what="validation")
    parts = (Subjects(*(column[rows] for column in train)) for rows in (kept, held))
    return SurvivalData(name, unit, *(_as(dtype, part) for part in (*parts, test)))


def seen_before(subjects: Subjects, among: Subjects) -> Tensor:
    """Which subjects stand among others, too, with the same covariates, time and event: (N,), bool.

    >>> a = Subjects(torch.tensor([[1.0], [2.0]]), torch.ones(2), torch.tensor([True, False]))
    >>> seen_before(a, Subjects(*(column[:1] for column in a)))
    tensor([ True, False])
    """

    def rows(of: Subjects) -> list[tuple[float, ...]]:
        return [tuple(row) for row in torch.cat([of.x, of.time[:, None], of.event[:, None].to(of.x)], 1).tolist()]

    known = set(rows(among))
    return torch.tensor([row in known for row in rows(subjects)])


def read_survival(record: SurvivalSet, store: Store) -> tuple[Subjects, Subjects]:
    """The training and the test part of a file, times of 0 moved."""
    specs = {
        f"{column}_{part}": ArraySpec(kind, (count, record.columns) if column == "x" else (count,))
        for part, count in (("train", record.train), ("test", record.test))
        for column, kind in (("x", "<f4"), ("time", "<f4"), ("event", "|u1"))
    }
    data = store.unpinned(record.path, at_most=npz_limit(specs), source=record.source)
    arrays = read_npz(data, specs, what=record.path)
    require_digest(content_digest(arrays), record.content, what=f"the numbers of {record.path}")
    smallest = arrays["time_train"][arrays["time_train"] > 0].min()
    parts = []
    for part in ("train", "test"):
        time, event = arrays[f"time_{part}"], arrays[f"event_{part}"]
        if event.max() > 1 or time.min() < 0:
            raise CorruptFileError(record.path, expected="times from 0 upwards, events 0 or 1", got="others")
        moved = np.where(time > 0, time, smallest / 2)
        parts.append(Subjects(*(torch.from_numpy(a.copy()) for a in (arrays[f"x_{part}"], moved, event > 0))))
    return parts[0], parts[1]


def _as(dtype: torch.dtype, part: Subjects) -> Subjects:
    return Subjects(part.x.to(dtype), part.time.to(dtype), part.event)

"""Draws of many chains in a Zarr store that grows while it can be read.

The arrays have room for all draws from the start. How many there are is what the store's *consolidated* metadata says,
one file that is replaced in one move after the draws are in place: whoever opens the store, by xarray or ArviZ, sees
whole draws of all chains and nothing else. Beside the arrays lies the state from which each process goes on.

A process that dies at any moment loses what came after its last save, no more. Of a machine that does there is no such
promise: when the arrays' files reach the disk is left to the operating system, as waiting for each would cost
milliseconds a chain and variable at every save.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from torch import Tensor

from pyro_bdl.errors import CorruptFileError, InputError
from pyro_bdl.files import replace_file
from pyro_bdl.state_file import read_state, write_state

FORMAT = "pyro_bdl chains 1"
CHUNK = 1 << 20  # bytes of one chain's draws in a file
SEEN = ".zmetadata"  # what readers go by


@dataclass(frozen=True)
class Variable:
    """What is stored of each draw: its name, ArviZ's group, its shape and dtype."""

    name: str
    group: str
    shape: tuple[int, ...]
    dtype: str


class ChainStore:
    """A folder with the draws of a run, and the states of its processes.

    Args:
        path: the folder.
        rank, count: of the process, and how many there are.
    """

    def __init__(self, path: str | Path, *, rank: int = 0, count: int = 1) -> None:
        self.path = Path(path)
        self._state = self.path / ".pyro_bdl" / f"rank-{rank}-of-{count}"
        self._arrays: dict[str, Any] = {}
        self._metadata: dict[str, Any] = {}

    @property
    def exists(self) -> bool:
        """Whether something is there."""
        return self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir()))

    @property
    def has_states(self) -> bool:
        """Whether a process has saved a state."""
        return any(self._state.parent.glob("rank-*-of-*"))

    def require_own(self) -> None:
        """Refuse a folder that holds something else.

        Raises:
            InputError: it is no store of a run.
        """
        if not (self.path / ".pyro_bdl").is_dir():
            raise InputError(
                f"the store {self.path}", expected="a store of sample_chains, or nothing", got="something else",
                remedy="Name another folder",
            )  # fmt: skip

    def create(self, variables: Sequence[Variable], *, chains: int, draws: int, attributes: Mapping[str, Any]) -> None:
        """Make the folder and its arrays, without a draw in them.

        Raises:
            InputError: a name that cannot be a folder's.
        """
        (self.path / ".pyro_bdl").mkdir(parents=True, exist_ok=True)
        root = zarr.open_group(self.path, mode="a", zarr_format=2, attributes=dict(attributes))
        for group in sorted({v.group for v in variables}):
            inner = root.create_group(group, overwrite=True)  # another run may have ended before its first save
            for name, size in (("chain", chains), ("draw", draws)):
                coordinate = inner.create_array(name, shape=(size,), dtype="i8", chunks=(size,), fill_value=-1)
                coordinate.attrs["_ARRAY_DIMENSIONS"] = [name]
                coordinate[:] = np.arange(size)
            for v in (v for v in variables if v.group == group):
                if "/" in v.name or v.name.startswith("."):
                    raise InputError(
                        f'the site "{v.name}"', expected="a name that a folder can have", got="a / or a dot before it"
                    )
                each = max(1, min(draws, CHUNK // max(1, np.dtype(v.dtype).itemsize * int(np.prod(v.shape)))))
                array = inner.create_array(
                    v.name, shape=(chains, draws, *v.shape), chunks=(1, each, *(max(1, s) for s in v.shape)),
                    dtype=v.dtype, fill_value=float("nan") if "float" in v.dtype else 0, compressors=None,
                )  # fmt: skip
                names = [f"{v.name}_dim_{k}" for k in range(len(v.shape))]
                array.attrs["_ARRAY_DIMENSIONS"] = ["chain", "draw", *names]

    def make_room(self, variables: Sequence[Variable], *, draws: int) -> None:
        """Let the arrays hold at least so many draws; one process does this, before any opens them.

        Raises:
            CorruptFileError: an array is missing, or another than it was.
        """
        with self._arrays_of_the_run() as root:
            for v in variables:
                array = _array(root, v)
                if array.shape[1] < draws:
                    array.resize((array.shape[0], draws, *array.shape[2:]))
            for group in {v.group for v in variables}:
                coordinate: Any = root[f"{group}/draw"]
                if coordinate.shape[0] < draws:
                    coordinate.resize((draws,))
                coordinate[:] = np.arange(coordinate.shape[0])  # also after a crash between the two

    def open(self, variables: Sequence[Variable]) -> None:
        """Find the arrays to write to.

        Raises:
            CorruptFileError: an array is missing, or another than it was.
        """
        with self._arrays_of_the_run() as root:
            self._arrays = {v.name: _array(root, v) for v in variables}

    def write(self, values: Mapping[str, Tensor], *, chains: range, start: int) -> None:
        """Put draws in place, each of shape (chains, draws, ...); no reader sees them yet."""
        for name, value in values.items():
            self._arrays[name][chains.start : chains.stop, start : start + value.shape[1]] = value.cpu().numpy()

    def publish(self, draws: int) -> None:
        """Let readers see so many draws."""
        if not self._metadata:
            for file in sorted(self.path.rglob(".z*")):
                if file.name in {".zgroup", ".zattrs", ".zarray"}:
                    self._metadata[file.relative_to(self.path).as_posix()] = json.loads(file.read_text())
        seen = {}
        for key, entry in self._metadata.items():
            seen[key] = entry
            dimensions = self._metadata.get(key.replace(".zarray", ".zattrs"), {}).get("_ARRAY_DIMENSIONS", [])
            if key.endswith(".zarray") and "draw" in dimensions:
                shape = [draws if d == "draw" else n for d, n in zip(dimensions, entry["shape"], strict=True)]
                seen[key] = entry | {"shape": shape}
        content = json.dumps({"metadata": seen, "zarr_consolidated_format": 1}, indent=1)
        replace_file(self.path / SEEN, [content.encode()])

    def read(self, names: list[str], *, group: str = "posterior") -> dict[str, Tensor]:
        """The draws that readers see, (chains, draws, ...)."""
        root = zarr.open_group(self.path, mode="r", zarr_format=2, use_consolidated=True)
        return {name: torch.from_numpy(np.asarray(root[f"{group}/{name}"])) for name in names}

    def save_state(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Replace this process's state."""
        write_state(self._state, tensors, {"format": FORMAT, **facts})

    def load_state(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """This process's state; `None` where no process has got so far as to save one.

        Raises:
            CorruptFileError: it is damaged.
            InputError: the run was one of another number of processes.
        """
        if self._state.exists():
            return read_state(self._state, what="the state of the chains", kind=FORMAT)
        others = sorted(p.name for p in self._state.parent.glob("rank-*-of-*"))
        wanted = self._state.name.rpartition("-")[2]
        if any(name.rpartition("-")[2] != wanted for name in others):
            raise InputError(
                f"the store {self.path}", expected=f"a run of {others[0].rpartition('-')[2]} processes, to resume it",
                got=wanted, remedy="Start as many as before",
            )  # fmt: skip
        return None

    @contextmanager
    def _arrays_of_the_run(self) -> Iterator[zarr.Group]:
        """The arrays as they are, published or not; what goes wrong within says that they are damaged."""
        try:
            yield zarr.open_group(self.path, mode="r+", zarr_format=2, use_consolidated=False)
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise CorruptFileError(
                f"the store {self.path}", expected="the arrays of the run", got=str(error),
                remedy="Remove the folder to begin anew",
            ) from error  # fmt: skip


def _array(root: zarr.Group, v: Variable) -> Any:
    """That of a variable, if it is of its shape and dtype."""
    array: Any = root[f"{v.group}/{v.name}"]
    if tuple(array.shape[2:]) != v.shape or array.dtype != np.dtype(v.dtype):
        raise ValueError(f"{v.name} has the shape {tuple(array.shape)} and the dtype {array.dtype}")
    return array

"""The state of something that runs, on disk: all of it, or the one before.

One safetensors file: tensors, and facts as JSON in its header, behind a digest over both. It is written to a temporary
file, synced and put in place in one move, so a crash leaves the old file. No pickle.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pyro_bdl.errors import CorruptFileError
from pyro_bdl.files import replace_file

DIGEST = 32


def write_state(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Replace the file by this state.

    Args:
        path: the file.
        tensors: by name.
        facts: what JSON can hold; `format` says of what kind it is.

    Raises:
        OSError: no room, no permission; the old file is as it was.
    """
    payload = save({k: v.contiguous().clone() for k, v in tensors.items()}, {"facts": json.dumps(facts)})
    replace_file(path, [hashlib.sha256(payload).digest(), payload])


def read_state(path: Path, *, what: str, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a file, its digest checked first.

    Args:
        path: the file.
        what: what it is called in messages.
        kind: the `format` that it must have.

    Raises:
        CorruptFileError: it is damaged, truncated, or of another kind.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_state(Path(folder, "s"), {"x": torch.ones(1)}, {"format": "a walk 1", "steps": 3})
    ...     read_state(Path(folder, "s"), what="the walk", kind="a walk 1")
    ({'x': tensor([1.])}, {'format': 'a walk 1', 'steps': 3})
    """
    content = path.read_bytes()
    digest, payload = content[:DIGEST], content[DIGEST:]
    if hashlib.sha256(payload).digest() != digest:
        raise CorruptFileError(
            f"{what} {path}", expected="a payload that fits its digest", got="another",
            remedy="The file is damaged or of another kind: remove it to begin anew",
        )  # fmt: skip
    try:
        header = int.from_bytes(payload[:8], "little")
        facts = json.loads(json.loads(payload[8 : 8 + header])["__metadata__"]["facts"])
        tensors = load(payload)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CorruptFileError(f"{what} {path}", expected=kind, got=str(error)) from error
    if facts.get("format") != kind:
        raise CorruptFileError(f"{what} {path}", expected=kind, got=str(facts.get("format")))
    return tensors, facts

"""Writing a file so that a crash leaves either the old one or the new one."""

import os
from collections.abc import Iterable
from pathlib import Path

Parts = Iterable[bytes | bytearray | memoryview]


def replace_file(path: str | os.PathLike[str], parts: Parts) -> None:
    """Put these bytes at `path`, all of them or none.

    They go to a temporary file in the same folder, which is synced and moved into place; then the folder is synced.

    Args:
        path: the file; its folder is made if it is missing.
        parts: the content, written one part after the other.

    Raises:
        OSError: no room, no permission; the old file is as it was.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     replace_file(Path(folder, "f"), [b"ab", b"c"])
    ...     Path(folder, "f").read_bytes()
    b'abc'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

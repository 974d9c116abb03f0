"""The data folder: finding files below it, never outside, and checking them before anyone decodes them."""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from platformdirs import user_cache_path

from pyro_bdl.data.download import OpenURL, download, open_https
from pyro_bdl.data.formats import require_digest
from pyro_bdl.data.records import PinnedFile
from pyro_bdl.errors import CorruptFileError, FileUnavailableError, InputError

FOLDER_VARIABLE = "PYRO_BDL_DATA"


def data_folder(root: str | os.PathLike[str] | None = None) -> Path:
    """Where data sets stand: `root`, else the folder in the variable PYRO_BDL_DATA, else the user's cache.

    Raises:
        InputError: `root` is not a path.

    >>> data_folder("somewhere").name
    'somewhere'
    """
    if root is not None:
        if not isinstance(root, str | os.PathLike) or not os.fspath(root):
            raise InputError("root", expected="a path or None", got=repr(root))
        return Path(root).expanduser()
    if from_environment := os.environ.get(FOLDER_VARIABLE):
        return Path(from_environment).expanduser()
    return user_cache_path("pyro_bdl") / "data"


@dataclass(frozen=True)
class Store:
    """The files below one folder.

    Args:
        folder: the data folder; it need not be there yet.
        fetch: download pinned files that are missing.
        progress: show a bar while downloading.
        open_url: opens an https address.
    """

    folder: Path
    fetch: bool = True
    progress: bool = True
    open_url: OpenURL = open_https

    def has(self, path: str) -> bool:
        """Whether there is something at `path`, relative to the folder."""
        return os.path.lexists(self.folder / path)

    def pinned(self, file: PinnedFile) -> bytes:
        """The bytes of a pinned file, downloaded if missing; what is returned is what was hashed.

        Raises:
            CorruptFileError: the file there has another size or sha256.
            FileUnavailableError: not there, and not to be had.
            InputError: a link leads out of the folder.
        """
        path = self._inside(file.path)
        if not self.has(file.path):
            self._download(file, path)
        remedy = "Remove the file" + (" and it will be downloaded anew" if file.urls else "")
        data = self._read(path, at_most=file.size, remedy=remedy)
        require_digest(hashlib.sha256(data).hexdigest(), file.sha256, what=str(path), remedy=remedy)
        return data

    def unpinned(self, path: str, *, at_most: int, source: str) -> bytes:
        """The bytes of a file that has no pinned download, up to a size; the caller checks its content.

        Raises:
            CorruptFileError: the file is larger.
            FileUnavailableError: not there; the message names `source`.
            InputError: a link leads out of the folder.
        """
        inside = self._inside(path)
        if not self.has(path):
            raise FileUnavailableError(
                f"{inside} is not there, and there is no pinned download of it: put it there. Source: {source}"
            )
        return self._read(inside, at_most=at_most)

    def _inside(self, path: str) -> Path:
        """The place of a relative path with every link resolved, which must be below the folder."""
        try:
            root = self.folder.resolve()
            inside = root.joinpath(*PurePosixPath(path).parts).resolve()
        except (OSError, RuntimeError) as error:  # a circle of links
            raise FileUnavailableError(f"{self.folder / path} cannot be resolved: {error}") from error
        if not inside.is_relative_to(root):
            raise InputError(
                str(self.folder / path),
                expected=f"a file below {root}",
                got=f"a link to {inside}",
                remedy="Put the file itself there, or make the folder with the file the data folder",
            )
        return inside

    def _download(self, file: PinnedFile, path: Path) -> None:
        by_hand = (
            f"To put it there by hand: {file.path} ({file.size} bytes, sha256 {file.sha256}) "
            f"goes into {self.folder}, or name the folder that has it by root= or {FOLDER_VARIABLE}"
        )
        if not file.urls or not self.fetch:
            why = "download=False" if file.urls else "there is no pinned download of it"
            raise FileUnavailableError(f"{path} is not there, and {why}. {by_hand}. Sources: {file.urls}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            download(file, path.parent, progress=self.progress, open_url=self.open_url)
        except OSError as error:
            raise FileUnavailableError(f"{error}. {by_hand}") from error

    def _read(self, path: Path, *, at_most: int, remedy: str = "") -> bytes:
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        try:
            with open(os.open(path, flags), "rb") as source:
                status = os.fstat(source.fileno())
                plain = stat.S_ISREG(status.st_mode)
                data = source.read(at_most + 1) if plain and status.st_size <= at_most else b""
        except OSError as error:
            raise FileUnavailableError(f"{path} cannot be read: {error}") from error
        if not plain or status.st_size > at_most or len(data) > at_most:
            got = f"{status.st_size} bytes" if plain else "something else"
            raise CorruptFileError(
                str(path), expected=f"a plain file of at most {at_most} bytes", got=got, remedy=remedy
            )
        return data

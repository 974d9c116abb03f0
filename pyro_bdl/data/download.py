"""One file over https into a folder: bounded while it streams, checked, and only then given its name."""

import hashlib
import os
import secrets
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib import request
from urllib.error import URLError

from tqdm import tqdm

from pyro_bdl.data.formats import require_digest
from pyro_bdl.data.records import PinnedFile
from pyro_bdl.errors import CorruptFileError, FileUnavailableError

_CHUNK = 1 << 16
_SECONDS = 30.0

OpenURL = Callable[[str], Any]


class _HttpsRedirects(request.HTTPRedirectHandler):
    """Follows a redirection only to https."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.startswith("https://"):
            raise URLError(f"refused a redirection to {newurl!r}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def https_opener(connection: request.BaseHandler | None = None) -> request.OpenerDirector:
    """An opener that knows https and nothing else: no http, ftp, file or data addresses, by redirection either.

    Args:
        connection: what opens an https address; the standard handler, which verifies certificates, by default.
    """
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler(),
        request.UnknownHandler(),
        request.HTTPDefaultErrorHandler(),
        _HttpsRedirects(),
        request.HTTPErrorProcessor(),
        connection or request.HTTPSHandler(),
    ):
        opener.add_handler(handler)
    return opener


def open_https(url: str) -> Any:
    """The response to a GET request of an https address, with a limit of 30 s of silence."""
    return https_opener().open(url, timeout=_SECONDS)


def download(file: PinnedFile, folder: Path, *, progress: bool = True, open_url: OpenURL = open_https) -> Path:
    """Fetches a pinned file from the first of its sources that delivers it.

    The bytes go to a temporary file in `folder`, counted and hashed on the way. Only when size and sha256 are
    right is that file flushed to disk and renamed, so that under the final name there is the right file or none.

    Args:
        file: what to fetch.
        folder: where to put it; it must be there.
        progress: show a bar.
        open_url: opens an address and returns a response with `headers` and `read`; https only by default.

    Returns:
        The path of the file.

    Raises:
        FileUnavailableError: no source delivered it; the message gives the reason for each, and nothing is kept.
    """
    target = folder / Path(file.path).name
    reasons = []
    for url in file.urls:
        try:
            return _download_from(url, file, target, progress=progress, open_url=open_url)
        except (OSError, HTTPException, ValueError) as error:
            reasons.append(f"{url}: {error}")
    raise FileUnavailableError(f"{target} could not be downloaded. " + "; ".join(reasons))


def _download_from(url: str, file: PinnedFile, target: Path, *, progress: bool, open_url: OpenURL) -> Path:
    if not url.startswith("https://"):
        raise CorruptFileError("source", expected="an https address", got=repr(url))
    partial = target.with_name(f".{target.name}.{secrets.token_hex(8)}.partial")
    try:
        with open_url(url) as response, partial.open("xb") as sink:
            digest = _copy(response, sink, file, progress=progress)
            require_digest(digest, file.sha256, what=url)
            sink.flush()
            os.fsync(sink.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    _flush_folder(target.parent)
    return target


def _copy(response: Any, sink: Any, file: PinnedFile, *, progress: bool) -> str:
    """Copies exactly `file.size` bytes, or raises; returns their sha256."""
    declared = response.headers.get("Content-Length")
    if declared is not None and declared.strip() != str(file.size):
        raise CorruptFileError("declared length", expected=f"{file.size} bytes", got=declared)
    digest, received = hashlib.sha256(), 0
    with tqdm(total=file.size, unit="B", unit_scale=True, desc=file.path, disable=not progress) as bar:
        while chunk := response.read(min(_CHUNK, file.size + 1 - received)):
            received += len(chunk)
            if received > file.size:
                raise CorruptFileError("length", expected=f"{file.size} bytes", got="more")
            digest.update(chunk)
            sink.write(chunk)
            bar.update(len(chunk))
    if received != file.size:
        raise CorruptFileError("length", expected=f"{file.size} bytes", got=f"{received}")
    return digest.hexdigest()


def _flush_folder(folder: Path) -> None:
    """Makes a rename last through a power failure, where the system allows to flush a folder."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

"""Downloads: https only, exactly the pinned bytes, and the final name appears with the right file or not at all."""

import errno
import os
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pyro_bdl.data import download as module
from pyro_bdl.data.download import download, https_opener
from pyro_bdl.data.records import PinnedFile
from pyro_bdl.errors import FileUnavailableError
from tests.data.small import FakeHttps, Reply, pinned, sha256

BODY = bytes(range(256)) * 1000  # several chunks
URL = "https://example.org/set/file.gz"
FILE = pinned("set/file.gz", BODY, urls=(URL,))


def fetch(file: PinnedFile, folder: Path, replies: dict[str, Reply]) -> tuple[Path, FakeHttps]:
    web = FakeHttps(replies)
    return download(file, folder, progress=False, open_url=https_opener(web).open), web


def test_the_right_bytes_arrive_under_the_final_name(tmp_path: Path) -> None:
    path, web = fetch(FILE, tmp_path, {URL: Reply(BODY)})
    assert path == tmp_path / "file.gz"
    assert path.read_bytes() == BODY
    assert list(tmp_path.iterdir()) == [path]
    assert web.requested == [URL]


REFUSED = {
    "wrong digest": (Reply(BODY[:-1] + b"\0"), "sha256"),
    "declared too large": (Reply(BODY, declared=str(10**12)), "declared length"),
    "declared too small": (Reply(BODY, declared="1"), "declared length"),
    "declared nonsense": (Reply(BODY, declared="-5"), "declared length"),
    "too large, undeclared": (Reply(BODY + b"more", declared=None), "got more"),
    "too large, declared right": (Reply(BODY + b"more", declared=str(len(BODY))), "got more"),
    "truncated": (Reply(BODY[:-7], declared=str(len(BODY))), f"got {len(BODY) - 7}"),
    "truncated, undeclared": (Reply(BODY[:-7], declared=None), f"got {len(BODY) - 7}"),
    "empty": (Reply(b"", declared=None), "got 0"),
    "redirected to http": (Reply(status=302, headers={"Location": "http://example.org/file.gz"}), "not https"),
    "redirected to a file": (Reply(status=301, headers={"Location": "file:///etc/passwd"}), "not allowed"),
    "redirected to ftp": (Reply(status=307, headers={"Location": "ftp://example.org/file.gz"}), "not https"),
    "redirected in a circle": (Reply(status=302, headers={"Location": URL}), "redirect"),
    "not found": (Reply(status=404), "404"),
    "server error": (Reply(status=500), "500"),
}


@pytest.mark.parametrize(("reply", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_anything_else_is_refused_and_leaves_nothing(tmp_path: Path, reply: Reply, reason: str) -> None:
    with pytest.raises(FileUnavailableError, match=reason):
        fetch(FILE, tmp_path, {URL: reply, "https://example.org/file.gz": Reply(BODY)})
    assert list(tmp_path.iterdir()) == []


def test_a_redirection_to_https_is_followed(tmp_path: Path) -> None:
    other = "https://elsewhere.example.org/x"
    path, _ = fetch(FILE, tmp_path, {URL: Reply(status=302, headers={"Location": other}), other: Reply(BODY)})
    assert path.read_bytes() == BODY


@pytest.mark.parametrize("progress", [True, False])
def test_the_bar_is_shown_if_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str], progress: bool) -> None:
    download(FILE, tmp_path, progress=progress, open_url=https_opener(FakeHttps({URL: Reply(BODY)})).open)
    shown = capsys.readouterr().err
    assert (FILE.path in shown and "100%" in shown) if progress else shown == ""


def test_the_next_source_is_tried_and_every_reason_is_told(tmp_path: Path) -> None:
    mirrors = ("https://a.example.org/f", "https://b.example.org/f", "https://c.example.org/f")
    file = pinned("set/file.gz", BODY, urls=mirrors)
    replies = {mirrors[1]: Reply(b"a page that says sorry"), mirrors[2]: Reply(BODY)}
    path, web = fetch(file, tmp_path, replies)
    assert path.read_bytes() == BODY
    assert web.requested == list(mirrors)
    path.unlink()
    with pytest.raises(FileUnavailableError) as told:
        fetch(file, tmp_path, {})
    assert all(mirror in str(told.value) for mirror in mirrors)


class Endless:
    """A response without end, that counts what is taken from it."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.taken = 0

    def __enter__(self) -> "Endless":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def read(self, size: int) -> bytes:
        self.taken += size
        return bytes(size)


def test_no_more_than_one_byte_too_many_is_taken(tmp_path: Path) -> None:
    endless = Endless()
    with pytest.raises(FileUnavailableError, match="got more"):
        download(FILE, tmp_path, progress=False, open_url=lambda _: endless)
    assert endless.taken == FILE.size + 1
    assert list(tmp_path.iterdir()) == []


class Interrupted(Endless):
    def read(self, size: int) -> bytes:
        if self.taken:
            raise KeyboardInterrupt
        return super().read(size)


def test_an_interruption_passes_through_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        download(FILE, tmp_path, progress=False, open_url=lambda _: Interrupted())
    assert list(tmp_path.iterdir()) == []


def test_flush_rename_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is on disk before it gets its name, and the name is on disk before anyone is told."""
    events = []
    fsync, replace = os.fsync, Path.replace

    def recorded_fsync(descriptor: int) -> None:
        events.append("folder" if Path(f"/proc/self/fd/{descriptor}").resolve() == tmp_path.resolve() else "file")
        fsync(descriptor)

    def recorded_replace(self: Path, target: Path) -> Path:
        events.append("rename")
        assert self.read_bytes() == BODY
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(Path, "replace", recorded_replace)
    fetch(FILE, tmp_path, {URL: Reply(BODY)})
    assert events == ["file", "rename", "folder"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fails(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(FileUnavailableError, match=os.strerror(number)):
        fetch(FILE, tmp_path, {URL: Reply(BODY)})
    assert list(tmp_path.iterdir()) == []


class CountingServer(BaseHTTPRequestHandler):
    """A plain http server that would deliver the file."""

    def __init__(self, hits: list[str], *args: object) -> None:
        self.hits = hits
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        self.hits.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, format: str, *args: object) -> None:
        return None


@pytest.fixture
def server() -> Iterator[tuple[int, list[str]]]:
    hits: list[str] = []
    http = HTTPServer(("127.0.0.1", 0), partial(CountingServer, hits))
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield http.server_address[1], hits
    http.shutdown()
    http.server_close()
    thread.join()


def test_plain_http_is_never_asked(tmp_path: Path, server: tuple[int, list[str]]) -> None:
    port, hits = server
    url = f"http://127.0.0.1:{port}/file.gz"
    with pytest.raises(FileUnavailableError, match="https"):
        download(pinned("file.gz", BODY, urls=(url,)), tmp_path, progress=False)
    with pytest.raises(OSError, match="unknown url type: http"):
        https_opener().open(url)
    assert hits == []


def test_a_server_that_speaks_no_tls_is_refused(tmp_path: Path, server: tuple[int, list[str]]) -> None:
    port, hits = server
    url = f"https://127.0.0.1:{port}/file.gz"
    with pytest.raises(FileUnavailableError, match="SSL"):
        download(pinned("file.gz", BODY, urls=(url,)), tmp_path, progress=False)
    assert hits == []


MUTANTS = {
    "digest not compared": ("require_digest", lambda *_, **__: None, "wrong digest"),
    "redirections followed": ("_HttpsRedirects", module.request.HTTPRedirectHandler, "redirected to http"),
}


@pytest.mark.parametrize(("name", "replacement", "case"), MUTANTS.values(), ids=MUTANTS.keys())
def test_the_tests_see_a_missing_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, replacement: object, case: str
) -> None:
    monkeypatch.setattr(module, name, replacement)
    with pytest.raises((pytest.fail.Exception, AssertionError)):
        test_anything_else_is_refused_and_leaves_nothing(tmp_path, *REFUSED[case])


def test_pinned_helper_is_the_files_own_digest() -> None:
    assert FILE.sha256 == sha256(BODY)

"""The data folder: never outside it, never a wrong file, and a message that helps."""

import os
from functools import partial
from pathlib import Path

import pytest
from platformdirs import user_cache_path

from pyro_bdl.data import files, load
from pyro_bdl.data.download import https_opener
from pyro_bdl.data.files import FOLDER_VARIABLE, Store, data_folder
from pyro_bdl.data.records import PinnedFile
from pyro_bdl.errors import CorruptFileError, FileUnavailableError, InputError
from tests.data.small import FakeHttps, Reply, pinned, put

BODY = b"the bytes of a data set"
URL = "https://example.org/file.gz"
FILE = pinned("set/file.gz", BODY, urls=(URL,))


def store(folder: Path, *, web: FakeHttps | None = None, fetch: bool = True) -> Store:
    return Store(folder, fetch=fetch, progress=False, open_url=https_opener(web or FakeHttps({})).open)


def test_folder_by_argument_variable_and_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "by variable"))
    assert data_folder(tmp_path) == tmp_path
    assert data_folder() == tmp_path / "by variable"
    assert data_folder("~/data") == Path.home() / "data"
    monkeypatch.setenv(FOLDER_VARIABLE, "")
    assert data_folder() == user_cache_path("pyro_bdl") / "data"


@pytest.mark.parametrize("root", [3, "", ["a"]])
def test_a_root_that_is_no_path_is_refused(root: object) -> None:
    with pytest.raises(InputError, match="root"):
        data_folder(root)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["../file", "a/../../file", "/etc/passwd", "", "a\\..\\b", "C:/file"])
def test_paths_out_of_the_folder_cannot_be_registered(path: str) -> None:
    with pytest.raises(InputError, match="relative path"):
        PinnedFile(path, 1, "00")


def test_a_file_that_is_there_is_read_without_a_network(tmp_path: Path) -> None:
    put(tmp_path, FILE.path, BODY)
    web = FakeHttps({})
    assert store(tmp_path, web=web).pinned(FILE) == BODY
    assert web.requested == []


def test_a_missing_file_is_downloaded_once(tmp_path: Path) -> None:
    folder, web = tmp_path / "not" / "there", FakeHttps({URL: Reply(BODY)})
    assert store(folder, web=web).pinned(FILE) == BODY
    assert store(folder, web=web).pinned(FILE) == BODY
    assert web.requested == [URL]
    assert [path for path in folder.rglob("*") if path.is_file()] == [folder / FILE.path]


@pytest.mark.parametrize(
    "damaged",
    [BODY[:-1], BODY[:-1] + b"?", BODY + b"?", b""],
    ids=["truncated", "changed", "longer", "empty"],
)
def test_a_wrong_file_is_refused_and_left_as_it_is(tmp_path: Path, damaged: bytes) -> None:
    path, web = put(tmp_path, FILE.path, damaged), FakeHttps({URL: Reply(BODY)})
    with pytest.raises(CorruptFileError, match=r"file\.gz: expected .*, got .*Remove the file"):
        store(tmp_path, web=web).pinned(FILE)
    assert path.read_bytes() == damaged
    assert web.requested == []


def test_the_message_of_a_wrong_file_has_both_digests(tmp_path: Path) -> None:
    path = put(tmp_path, FILE.path, BODY[::-1])
    with pytest.raises(CorruptFileError) as told:
        store(tmp_path).pinned(FILE)
    assert all(part in str(told.value) for part in (str(path), FILE.sha256, pinned("x", BODY[::-1]).sha256))


def test_without_a_network_the_message_says_where_to_put_the_file(tmp_path: Path) -> None:
    for options in ({"fetch": False}, {}):
        with pytest.raises(FileUnavailableError) as told:
            store(tmp_path / "data", **options).pinned(FILE)
        for part in (str(tmp_path / "data"), FILE.path, FILE.sha256, URL, FOLDER_VARIABLE):
            assert part in str(told.value)
    assert isinstance(told.value, OSError)


def test_without_a_pinned_download_the_message_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileUnavailableError, match="no pinned download"):
        store(tmp_path).pinned(pinned("set/file.gz", BODY))
    with pytest.raises(FileUnavailableError, match=r"no pinned download.*a page"):
        store(tmp_path).unpinned("set/file.npz", at_most=10, source="a page")


def test_a_local_file_is_bounded(tmp_path: Path) -> None:
    put(tmp_path, "a", bytes(10))
    assert store(tmp_path).unpinned("a", at_most=10, source="") == bytes(10)
    with pytest.raises(CorruptFileError, match="at most 9"):
        store(tmp_path).unpinned("a", at_most=9, source="")


@pytest.mark.parametrize("kind", ["file", "folder", "dangling", "through a second link"])
def test_links_out_of_the_folder_are_not_followed(tmp_path: Path, kind: str) -> None:
    folder, outside = tmp_path / "data", tmp_path / "outside"
    put(outside, "file.gz", BODY)
    if kind == "folder":
        folder.mkdir()
        (folder / "set").symlink_to(outside)
    else:
        (folder / "set").mkdir(parents=True)
        target = {"file": "file.gz", "dangling": "new.gz"}.get(kind, "link")
        (outside / "link").symlink_to(outside / "file.gz")
        (folder / "set" / "file.gz").symlink_to(outside / target)
    before = sorted(outside.iterdir())
    web = FakeHttps({URL: Reply(BODY)})
    with pytest.raises(InputError, match="a link to"):
        store(folder, web=web).pinned(FILE)
    assert web.requested == []
    assert sorted(outside.iterdir()) == before


MUTANTS = {
    "links followed": (Store, "_inside", lambda self, path: self.folder / path),
    "digest of a local file not compared": (files, "require_digest", lambda *_, **__: None),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_tests_see_a_missing_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mutant: str) -> None:
    monkeypatch.setattr(*MUTANTS[mutant])
    cases = {
        "links followed": partial(test_links_out_of_the_folder_are_not_followed, kind="folder"),
        "digest of a local file not compared": test_the_message_of_a_wrong_file_has_both_digests,
    }
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        cases[mutant](tmp_path)


def test_a_circle_of_links_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "set").symlink_to(tmp_path / "set")
    with pytest.raises((FileUnavailableError, InputError)):
        store(tmp_path).pinned(FILE)


def test_links_within_the_folder_and_to_the_folder_are_followed(tmp_path: Path) -> None:
    put(tmp_path / "data", "store/file.gz", BODY)
    (tmp_path / "data" / "set").symlink_to("store")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    assert store(tmp_path / "link").pinned(FILE) == BODY


def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    os.mkfifo(tmp_path / FILE.path)
    with pytest.raises(CorruptFileError, match="plain file"):
        store(tmp_path).pinned(FILE)


def test_a_root_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    put(tmp_path, "root", b"")
    with pytest.raises(FileUnavailableError):
        store(tmp_path / "root", web=FakeHttps({URL: Reply(BODY)})).pinned(FILE)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_an_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(FileUnavailableError, match="Permission"):
            store(tmp_path, web=FakeHttps({URL: Reply(BODY)})).pinned(FILE)
    finally:
        tmp_path.chmod(0o700)


def test_load_looks_below_root_and_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "mnist/train-images-idx3-ubyte.gz", b"not MNIST")
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    for options in ({}, {"root": tmp_path}):
        with pytest.raises(CorruptFileError, match="train-images"):
            load("mnist", download=False, **options)
    with pytest.raises(FileUnavailableError, match="elsewhere"):
        load("mnist", download=False, root=tmp_path / "elsewhere")

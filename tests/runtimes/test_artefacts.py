"""Artefacts from beside a file, from fsspec's memory and from an HTTP server on loopback, and the cache between."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import fsspec
import pytest
from file_server import FileServer, Served
from test_archives import packed, tarred, zipped

from engine.errors import RuntimeUnavailable
from engine.runtimes import archives, artefacts, stores

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]

# A process of its own that fetches.
FETCH = """
import sys
from pathlib import Path
from engine.runtimes import artefacts
artefacts.fetch("iris", sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
"""


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as serving:
        yield serving


@pytest.fixture
def memory() -> Iterator[Any]:
    """The file system that all of a process share, empty."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The resource file's."""
    made = tmp_path / "resources"
    made.mkdir()
    return made


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def fetch(uri: str, folder: Path, **given: Any) -> Path:
    return artefacts.fetch("iris", uri, folder, folder.parent / "cache", **given)


def refusal(uri: str, folder: Path, **given: Any) -> str:
    with pytest.raises(RuntimeUnavailable) as caught:
        fetch(uri, folder, **given)
    assert str(caught.value).startswith(f'model "iris": "{stores.shown(uri)}": ')
    return caught.value.reason.partition(f'"{stores.shown(uri)}": ')[2]


def contents(found: Path) -> dict[str, bytes]:
    return {path.relative_to(found).as_posix(): path.read_bytes() for path in found.rglob("*") if path.is_file()}


def kept(cache: Path) -> int:
    """How many entries the cache has, with whatever is half-done."""
    return sum(len(list(address.iterdir())) for address in cache.iterdir()) if cache.exists() else 0


# Paths


@pytest.mark.parametrize("uri", ["iris", "./iris", "iris/../iris", "iris/model.bst"])
def test_a_path_is_looked_up_beside_the_resource_file(folder: Path, uri: str) -> None:
    (folder / "iris").mkdir()
    (folder / "iris" / "model.bst").write_bytes(b"1")
    assert fetch(uri, folder) == folder / PurePath(os.path.normpath(uri))


def test_a_file_address_and_an_absolute_path_may_name_what_is_beside(folder: Path, cache: Path) -> None:
    (folder / "a model").write_bytes(b"1")
    assert fetch(f"file://{folder}/a%20model", folder) == folder / "a model"
    assert fetch(f"file://localhost{folder}/a%20model", folder) == folder / "a model"
    assert fetch(f"{folder}/a model", folder) == folder / "a model"
    assert not cache.exists()


@pytest.mark.parametrize("uri", ["none", "file:///none"])
def test_a_path_with_nothing_there_is_told(folder: Path, uri: str) -> None:
    assert refusal(uri, folder, outside=True).endswith("none does not exist")


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("uri", ["..", "../model", "a/../../model", "file:../model"])
def test_a_relative_path_never_leads_out_of_the_folder(folder: Path, uri: str, *, outside: bool) -> None:
    (folder.parent / "model").write_bytes(b"1")
    said = refusal(uri, folder, outside=outside)
    assert said == f"it leads out of the resource file's folder {folder}; put the artefact there"


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_an_absolute_path_leads_out_of_the_folder_only_where_that_is_allowed(folder: Path, form: str) -> None:
    outside = folder.parent / "model"
    outside.write_bytes(b"1")
    assert refusal(form.format(outside), folder).endswith("put the artefact there, or set allow_pickle")
    assert fetch(form.format(outside), folder, outside=True) == outside


def test_a_link_within_the_folder_is_followed(folder: Path) -> None:
    (folder / "v1").mkdir()
    (folder / "v1" / "model").write_bytes(b"1")
    (folder / "now").symlink_to("v1")
    assert fetch("now", folder) == folder / "v1"


@pytest.mark.parametrize("outside", [False, True])
def test_a_link_that_leads_out_of_the_folder_is_refused(folder: Path, *, outside: bool) -> None:
    (folder / "now").symlink_to("../v1")
    (folder.parent / "v1").mkdir()
    assert refusal("now", folder, outside=outside).startswith("it leads out of the resource file's folder")


@pytest.mark.parametrize("target", ["../../secret", "/etc"])
@pytest.mark.parametrize("outside", [False, True])
def test_a_link_inside_an_artefact_that_leads_out_is_refused(folder: Path, target: str, *, outside: bool) -> None:
    (folder / "iris").mkdir()
    (folder.parent / "secret").write_bytes(b"1")
    (folder / "iris" / "model").symlink_to(target)
    said = refusal("iris", folder, outside=outside)
    assert said == f"the link {folder / 'iris' / 'model'} leads out of the resource file's folder {folder}"


@pytest.mark.parametrize("uri", ["a\0b", "loop", "file://elsewhere/model", "x" * 300])
def test_a_path_that_is_none_is_told(folder: Path, uri: str) -> None:
    (folder / "loop").symlink_to("loop")
    assert refusal(uri, folder)


def test_an_archive_beside_the_resource_file_is_unpacked_again_when_it_changes(folder: Path) -> None:
    archive = folder / "a model#1.zip"
    archive.write_bytes(zipped({"model": b"1"}))
    first = fetch("a model#1.zip", folder)
    assert (contents(first), fetch("a model#1.zip", folder)) == ({"model": b"1"}, first)
    archive.write_bytes(zipped({"model": b"other"}))
    assert contents(fetch("a model#1.zip", folder)) == {"model": b"other"}


# Addresses


def test_a_file_is_fetched_with_its_name(server: FileServer, folder: Path) -> None:
    server.files["/models/model.bst"] = Served(b"1" * 3_000_000)
    found = fetch(f"{server.url}/models/model.bst?token=1#top", folder)
    assert (found.name, found.read_bytes()) == ("model.bst", b"1" * 3_000_000)


@pytest.mark.parametrize("last", ["..%2f..%2fx", "%00", "a\\b", "é", "..", "x" * 300])
def test_no_name_in_an_address_leads_out_of_the_cache(server: FileServer, folder: Path, cache: Path, last: str) -> None:
    server.files = dict.fromkeys(("/" + last, "/", "/%C3%A9", "/a%5Cb", "/..%2F..%2Fx"), Served(b"1"))
    uri = f"{server.url}/{last}"
    with pytest.MonkeyPatch.context() as patch:
        # What the server makes of it is its own affair.
        patch.setattr(FileServer, "_answer", _always)
        found = fetch(uri, folder)
    assert found.is_file()
    assert found.parent.parent.parent == cache


def _always(_: FileServer, request: Any, *, with_body: bool) -> None:
    request.send_response(200)
    request.send_header("Content-Length", "1")
    request.end_headers()
    if with_body:
        request.wfile.write(b"1")


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tgz"])
def test_an_archive_is_unpacked(server: FileServer, folder: Path, name: str) -> None:
    server.files[f"/{name}"] = Served(packed(name, {"iris/model.bst": b"1"}))
    assert contents(fetch(f"{server.url}/{name}", folder)) == {"model.bst": b"1"}


def test_a_tree_is_fetched(memory: Any, folder: Path) -> None:
    for name, each in {"model.json": b"1", "sub/a": b"", "sub/sub/b": b"2"}.items():
        memory.pipe(f"/bucket/iris/{name}", each)
    memory.pipe("/bucket/iris2/other", b"3")
    assert contents(fetch("memory://bucket/iris", folder)) == {"model.json": b"1", "sub/a": b"", "sub/sub/b": b"2"}
    assert contents(fetch("memory://bucket/iris/sub/", folder)) == {"a": b"", "sub/b": b"2"}


def test_a_tree_whose_names_lead_out_of_it_is_refused(memory: Any, folder: Path, cache: Path) -> None:
    memory.store["/bucket/iris/../../../x"] = memory.store["/bucket/iris/a"] = _memory_file(memory)
    assert refusal("memory://bucket/iris", folder) == "member '../../../x' would be written outside its folder"
    assert kept(cache) == 0


def _memory_file(memory: Any) -> Any:
    memory.pipe("/some", b"1")
    return memory.store["/some"]


@pytest.mark.parametrize("uri", ["memory://bucket/none", "memory://bucket/none.zip"])
def test_an_address_with_nothing_there_is_told(memory: Any, folder: Path, uri: str) -> None:
    memory.pipe("/bucket/iris/model", b"1")
    assert refusal(uri, folder) == "nothing is there"


@pytest.mark.parametrize(
    ("status", "said"), [(404, "404 Not Found"), (403, "403 Forbidden"), (500, "500 Internal Server Error")]
)
def test_a_server_that_refuses_is_told_with_what_it_says(
    server: FileServer, folder: Path, status: int, said: str
) -> None:
    server.files["/model"] = Served(b"1", status=status)
    assert refusal(f"{server.url}/model", folder) == f"the server answers {said}"


def test_a_folder_over_http_is_refused_with_what_to_do(server: FileServer, folder: Path) -> None:
    said = refusal(f"{server.url}/models/", folder)
    assert (said, server.asked) == ("HTTP has no folders; serve the artefact as a file or an archive", [])


def test_what_may_be_secret_in_an_address_is_not_told(server: FileServer, folder: Path) -> None:
    port = server.url.rpartition(":")[2]
    with pytest.raises(RuntimeUnavailable) as refused:
        fetch(f"http://me:hush@127.0.0.1:{port}/none.zip?sig=hush", folder)
    server.stop()
    with pytest.raises(RuntimeUnavailable) as away:
        fetch(f"http://me:hush@127.0.0.1:{port}/none.zip?sig=hush", folder)
    for caught in (refused, away):
        assert f'"http://127.0.0.1:{port}/none.zip"' in str(caught.value)
        assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    ["nothing://a/b", "zip://a::file:///etc/hostname", "local:///etc/hostname", "s3:a", "simplecache::memory://a"],
)
def test_an_address_that_nothing_opens_is_refused(folder: Path, uri: str) -> None:
    assert refusal(uri, folder, outside=True) == "nothing here opens such addresses"


def test_no_address_holds_another_one(memory: Any, folder: Path) -> None:
    memory.pipe("/a", b"1")
    assert refusal("memory://a::file:///etc/hostname", folder) == "nothing is there"


def test_a_missing_package_is_told_with_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    assert refusal("s3://bucket/iris", folder) == "it needs s3fs; pip install s3fs"


@pytest.mark.parametrize("name", ["model.zip", "model.tar.gz"])
def test_a_broken_archive_is_told_and_leaves_nothing(server: FileServer, folder: Path, cache: Path, name: str) -> None:
    server.files[f"/{name}"] = Served(packed(name, {"model": bytes(range(256)) * 99})[:200])
    assert refusal(f"{server.url}/{name}", folder).startswith("it is no whole archive")
    assert kept(cache) == 0


def test_a_zip_that_leads_out_of_the_cache_is_told_and_leaves_nothing(
    server: FileServer, folder: Path, cache: Path
) -> None:
    server.files["/model.zip"] = Served(zipped({"good": b"1", "../../../../slipped": b"1"}))
    assert refusal(f"{server.url}/model.zip", folder).startswith("member '../../../../slipped' would be written")
    assert (kept(cache), list(folder.parent.rglob("slipped"))) == (0, [])


def test_a_link_in_an_archive_is_told_and_leaves_nothing(server: FileServer, folder: Path, cache: Path) -> None:
    link = {"type": b"2", "linkname": "/etc/hostname"}
    server.files["/model.tar"] = Served(tarred({"good": b"1", "model": b""}, model=link))
    assert refusal(f"{server.url}/model.tar", folder).startswith("member 'model' is a link")
    assert kept(cache) == 0


# Limits


@pytest.mark.parametrize("told", [True, False])
def test_what_is_too_large_is_refused(
    server: FileServer, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, *, told: bool
) -> None:
    monkeypatch.setattr(stores, "MAX_BYTES", 1_000_000)
    body = bytes(2_000_000)
    server.files["/model"] = Served(body) if told else Served(zipped({"zeros": body}))
    server.files["/model.zip"] = server.files["/model"]
    said = refusal(f"{server.url}/model" + ("" if told else ".zip"), folder)
    assert said == "it takes more than 1000000 bytes, fetched and unpacked"
    assert (kept(cache), server.fetches()) == (0, 0 if told else 1)


def test_a_tree_of_too_many_files_is_refused(memory: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    for number in range(4):
        memory.pipe(f"/bucket/{number}", b"")
    assert refusal("memory://bucket", folder) == "it holds more than 3 files"


def test_a_server_that_stalls_is_left(
    server: FileServer, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "STALL_SECONDS", 0.2)
    server.files["/model"] = Served(b"1" * 3_000_000, stall=2_000_000)
    assert refusal(f"{server.url}/model", folder)
    assert kept(cache) == 0


def test_a_file_system_that_stalls_is_left(memory: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(stores, "STALL_SECONDS", 0.05)
    monkeypatch.setattr(type(memory), "info", lambda *_: released.wait(10.0))
    assert refusal("memory://model", folder) == "nothing came for 0.05 s"
    released.set()


def test_a_fetch_that_takes_too_long_is_left(memory: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(stores, "FETCH_SECONDS", 0.05)
    monkeypatch.setattr(type(memory), "info", lambda *_: released.wait(10.0))
    assert refusal("memory://model", folder) == "not done in 0.05 s"
    released.set()


# The cache


def test_what_has_not_changed_is_not_fetched_again(server: FileServer, folder: Path) -> None:
    server.files["/model.zip"] = Served(zipped({"model": b"1"}), etag='"1"')
    first = fetch(f"{server.url}/model.zip", folder)
    assert server.fetches() == 1
    assert fetch(f"{server.url}/model.zip", folder) == first
    assert (server.fetches(), contents(first)) == (1, {"model": b"1"})


def test_what_has_changed_is_fetched_anew(server: FileServer, folder: Path) -> None:
    server.files["/model"] = Served(b"1", etag='"1"')
    assert fetch(f"{server.url}/model", folder).read_bytes() == b"1"
    server.files["/model"] = Served(b"2", etag='"2"')
    assert fetch(f"{server.url}/model", folder).read_bytes() == b"2"


def test_a_tree_of_which_one_file_has_changed_is_fetched_anew(memory: Any, folder: Path) -> None:
    memory.pipe("/bucket/a", b"1")
    memory.pipe("/bucket/b", b"1")
    first = fetch("memory://bucket", folder)
    assert fetch("memory://bucket", folder) == first
    memory.pipe("/bucket/b", b"2")
    assert contents(fetch("memory://bucket", folder)) == {"a": b"1", "b": b"2"}


def test_what_tells_no_version_is_fetched_each_time(server: FileServer, folder: Path) -> None:
    server.files["/model"] = Served(b"1")
    fetch(f"{server.url}/model", folder)
    server.files["/model"] = Served(b"2")
    assert fetch(f"{server.url}/model", folder).read_bytes() == b"2"


def test_two_addresses_do_not_share_a_copy(server: FileServer, folder: Path) -> None:
    server.files["/a/model"], server.files["/b/model"] = Served(b"1", etag='"1"'), Served(b"2", etag='"1"')
    assert [fetch(f"{server.url}/{name}/model", folder).read_bytes() for name in "ab"] == [b"1", b"2"]


def test_what_changes_while_it_is_fetched_is_fetched_again(server: FileServer, folder: Path, cache: Path) -> None:
    server.files["/model"] = Served(b"1", etag='"1"')

    class Change:
        def wait(self, _: float) -> None:
            server.files["/model"] = Served(b"2", etag='"2"')

    server.gates = [Change()]  # type: ignore[list-item]
    assert fetch(f"{server.url}/model", folder).read_bytes() == b"2"
    assert kept(cache) == 1


def test_what_changes_each_time_is_told(server: FileServer, folder: Path, cache: Path) -> None:
    class Change:
        def wait(self, _: float) -> None:
            server.files["/model"] = Served(b"1", etag=f'"{len(server.asked)}"')

    server.files["/model"] = Served(b"1", etag='"0"')
    server.gates = [Change()]  # type: ignore[list-item]
    assert refusal(f"{server.url}/model", folder) == "it changes each time while it is fetched"
    assert kept(cache) == 0


@pytest.mark.parametrize("away", ["stopped", "broken", "busy", "stalled"])
def test_a_copy_is_taken_with_a_warning_while_the_server_cannot_be_asked(
    server: FileServer, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, away: str
) -> None:
    uri = f"{server.url}/model"
    for tag in ("1", "2", "1"):
        server.files["/model"] = Served(tag.encode(), etag=f'"{tag}"')
        last = fetch(uri, folder)
        os.utime(last.parent, (time.time() + len(server.asked),) * 2)
    if away == "stopped":
        server.stop()
    elif away == "stalled":
        monkeypatch.setattr(stores, "STALL_SECONDS", 0.05)
        monkeypatch.setattr(FileServer, "_answer", lambda *_, **__: server.stopping.wait(30.0))
    else:
        server.files["/model"] = Served(status=503 if away == "broken" else 429)
    with caplog.at_level(logging.WARNING, "engine.runtimes.artefacts"):
        assert fetch(uri, folder) == last
    assert last.read_bytes() == b"1"
    assert f'model "iris": "{uri}" cannot be asked, taking the cached copy: ' in caplog.text


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_copy_is_not_taken_of_what_the_server_has_withdrawn(server: FileServer, folder: Path, status: int) -> None:
    server.files["/model"] = Served(b"1", etag='"1"')
    fetch(f"{server.url}/model", folder)
    server.files["/model"] = Served(status=status)
    assert refusal(f"{server.url}/model", folder).startswith(f"the server answers {status}")


def test_a_server_that_is_away_is_told_where_there_is_no_copy(server: FileServer, folder: Path) -> None:
    server.stop()
    assert "ClientConnectorError: Cannot connect to host" in refusal(f"{server.url}/model", folder)


def test_an_interrupted_download_leaves_nothing_that_is_taken_for_whole(
    server: FileServer, folder: Path, cache: Path
) -> None:
    body = os.urandom(3_000_000)
    server.files["/model"] = Served(body, etag='"1"', cut=2_000_000)
    assert refusal(f"{server.url}/model", folder)
    assert kept(cache) == 0
    server.files["/model"] = Served(body, etag='"1"')
    assert fetch(f"{server.url}/model", folder).read_bytes() == body


def test_a_process_that_is_killed_leaves_nothing_that_is_taken_for_whole(
    server: FileServer, folder: Path, cache: Path
) -> None:
    body = os.urandom(3_000_000)
    server.files["/model"] = Served(body, etag='"1"', stall=2_000_000)
    uri = f"{server.url}/model"
    with subprocess.Popen([sys.executable, "-c", FETCH, uri, str(folder), str(cache)], cwd=ROOT) as process:
        while not any(half.stat().st_size for half in cache.rglob("model")):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert kept(cache) == 1
    server.files["/model"] = Served(body, etag='"1"')
    assert fetch(uri, folder).read_bytes() == body


def test_a_file_that_ends_early_is_told(memory: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.pipe("/model", b"12345")
    info = type(memory).info
    monkeypatch.setattr(type(memory), "info", lambda *given: {**info(*given), "size": 7})
    assert refusal("memory://model", folder) == "model ended after 5 of 7 bytes"


def test_what_a_process_that_was_killed_has_left_is_removed_after_a_day(
    server: FileServer, folder: Path, cache: Path
) -> None:
    server.files["/model"] = Served(b"1", etag='"1"')
    home = fetch(f"{server.url}/model", folder).parent.parent
    for name in (".part-old", ".part-new"):
        (home / name).mkdir()
        (home / name / "model").write_bytes(b"half")
    os.utime(home / ".part-old", (time.time() - 2 * artefacts.LEFTOVER_SECONDS,) * 2)
    server.files["/model"] = Served(b"2", etag='"2"')
    assert fetch(f"{server.url}/model", folder).read_bytes() == b"2"
    assert ((home / ".part-old").exists(), (home / ".part-new").exists()) == (False, True)
    assert kept(cache) == 3


def test_the_cache_keeps_the_last_two_versions(server: FileServer, folder: Path, cache: Path) -> None:
    found = []
    for number in range(4):
        server.files["/model"] = Served(b"%d" % number, etag=f'"{number}"')
        found.append(fetch(f"{server.url}/model", folder))
        os.utime(found[-1].parent, (time.time() - 100 + number,) * 2)
    assert [path.exists() for path in found] == [False, False, True, True]
    assert kept(cache) == 2


def test_fetches_at_the_same_time_do_not_disturb_each_other(server: FileServer, folder: Path, cache: Path) -> None:
    body = os.urandom(2_000_000)
    server.files["/model.zip"] = Served(zipped({"model": body}), etag='"1"')
    # All of them are in the middle of it before one can end.
    server.gates = [threading.Barrier(4)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: fetch(f"{server.url}/model.zip", folder), range(4)))
    assert server.fetches() == 4
    assert len(set(found)) == 1
    assert contents(found[0]) == {"model": body}
    assert kept(cache) == 1


def test_a_cache_that_cannot_be_written_is_told_with_what_to_do(server: FileServer, folder: Path, cache: Path) -> None:
    server.files["/model"] = Served(b"1", etag='"1"')
    cache.write_bytes(b"no folder")
    said = refusal(f"{server.url}/model", folder)
    assert said == f"the cache {cache} cannot be written: Not a directory; SELDON_ARTEFACT_CACHE names another"


def test_the_cache_is_the_users_alone(server: FileServer, folder: Path) -> None:
    server.files["/model"] = Served(b"1")
    assert fetch(f"{server.url}/model", folder).parent.parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("setting", "environment", "found"),
    [
        ("/set", {"XDG_CACHE_HOME": "/xdg", "HOME": "/home/me"}, "/set"),
        ("", {"XDG_CACHE_HOME": "/xdg", "HOME": "/home/me"}, "/xdg/millrace/artefacts"),
        ("", {"XDG_CACHE_HOME": "relative", "HOME": "/home/me"}, "/home/me/.cache/millrace/artefacts"),
        ("", {"HOME": "/home/me"}, "/home/me/.cache/millrace/artefacts"),
        ("", {}, "/.cache/millrace/artefacts"),
    ],
)
def test_the_cache_stands_where_it_is_set_or_in_the_users_cache_folder(
    setting: str, environment: dict[str, str], found: str
) -> None:
    assert artefacts.cache_folder(setting, environment) == Path(found)


def test_a_relative_setting_is_below_the_folder_that_the_process_runs_in() -> None:
    assert artefacts.cache_folder("cache") == Path.cwd() / "cache"


# What unpickles


@pytest.mark.parametrize("requirement", ["xgboost", "lightgbm", "onnx"])
@pytest.mark.parametrize(
    ("path", "does"), [("model.json", False), ("iris", False), ("a.PKL", True), ("a.joblib", True)]
)
def test_formats_that_hold_no_code_do_not_unpickle(requirement: str, path: str, *, does: bool) -> None:
    assert artefacts.unpickles(requirement, PurePath(path)) is does


@pytest.mark.parametrize("requirement", ["sklearn", "mlflow", "my.own.Model", ""])
@pytest.mark.parametrize("path", ["model.json", "model.onnx", "iris"])
def test_whatever_else_loads_is_taken_to_unpickle(requirement: str, path: str) -> None:
    assert artefacts.unpickles(requirement, PurePath(path))

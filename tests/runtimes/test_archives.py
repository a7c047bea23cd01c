from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.runtimes import archives

if TYPE_CHECKING:
    from collections.abc import Mapping

KINDS = ["a.zip", "a.tar", "a.tar.gz", "a.tgz", "A.ZIP", "A.TGZ"]


def zipped(members: Mapping[str, bytes], **kinds: int) -> bytes:
    """A zip file; `kinds` has the file type of a member in its POSIX mode."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, contents in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = kinds.get(name, 0) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(info, contents)
    return buffer.getvalue()


def tarred(members: Mapping[str, bytes], mode: Any = "w", **fields: dict[str, Any]) -> bytes:
    """A tar file; `fields` has more of a member's header."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as file:
        for name, contents in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(contents)
            for field, value in fields.get(name, {}).items():
                setattr(info, field, value)
            file.addfile(info, io.BytesIO(contents))
    return buffer.getvalue()


def packed(name: str, members: Mapping[str, bytes]) -> bytes:
    if name.lower().endswith(".zip"):
        return zipped(members)
    return tarred(members, "w" if name.lower().endswith(".tar") else "w:gz")


def unpack(folder: Path, name: str, contents: bytes) -> dict[str, bytes]:
    """The files that come of it, by their paths."""
    archive = folder / name
    archive.write_bytes(contents)
    archives.unpack(archive, lambda _: None)
    return {path.relative_to(archive).as_posix(): path.read_bytes() for path in archive.rglob("*") if not path.is_dir()}


def refusal(folder: Path, name: str, contents: bytes) -> str:
    (folder / "below").mkdir()
    with pytest.raises(ValueError, match=r".") as caught:
        unpack(folder / "below", name, contents)
    # Nothing has come to stand beside the folder.
    assert [path.name for path in folder.iterdir()] == ["below"]
    assert all(path.is_relative_to(folder / "below" / name) for path in (folder / "below").iterdir() if path.is_dir())
    return str(caught.value)


@pytest.mark.parametrize("name", KINDS)
def test_files_come_out_as_they_went_in(tmp_path: Path, name: str) -> None:
    members = {"model.bst": b"1" * 3_000_000, "sub/empty": b"", "sub/sub/x.json": b"{}"}
    assert unpack(tmp_path, name, packed(name, members)) == members


@pytest.mark.parametrize("name", KINDS)
def test_an_archive_of_one_folder_is_that_folder(tmp_path: Path, name: str) -> None:
    assert unpack(tmp_path, name, packed(name, {"iris/a": b"1", "iris/iris/b": b"2"})) == {"a": b"1", "iris/b": b"2"}


def test_folders_in_an_archive_may_come_before_and_after_their_files(tmp_path: Path) -> None:
    folder = {"type": tarfile.DIRTYPE}
    contents = tarred(
        {"./": b"", "./b/c": b"1", "./b": b"", "./d": b""}, **{"./": folder, "./b": folder, "./d": folder}
    )
    assert unpack(tmp_path, "a.tar", contents) == {"b/c": b"1"}
    assert (tmp_path / "a.tar" / "d").is_dir()


def test_a_server_that_has_unpacked_the_gzip_on_the_way_does_no_harm(tmp_path: Path) -> None:
    assert unpack(tmp_path, "a.tar.gz", tarred({"a": b"1"})) == {"a": b"1"}


OUTSIDE = ["../x", "a/../../x", "/x", "a/..", "..", "\\x", "a\\..\\..\\x"]


@pytest.mark.parametrize("member", OUTSIDE)
@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz"])
def test_a_member_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str, member: str) -> None:
    said = refusal(tmp_path, name, packed(name, {"good": b"", member: b"1"}))
    assert said == f"member {member!r} would be written outside its folder"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("target", ["good", "../../x", "/etc/hostname"])
def test_links_in_a_tar_file_are_refused_wherever_they_lead(tmp_path: Path, kind: bytes, target: str) -> None:
    contents = tarred({"good": b"1", "bad": b""}, bad={"type": kind, "linkname": target})
    assert refusal(tmp_path, "a.tar", contents) == "member 'bad' is a link; only plain files and folders are unpacked"


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_in_a_tar_file_are_refused(tmp_path: Path, kind: bytes) -> None:
    assert "member 'bad' is a device" in refusal(tmp_path, "a.tar", tarred({"bad": b""}, bad={"type": kind}))


@pytest.mark.parametrize(("mode", "what"), [(0o120777, "a link"), (0o020666, "a device"), (0o010666, "a device")])
def test_links_and_devices_in_a_zip_file_are_refused(tmp_path: Path, mode: int, what: str) -> None:
    assert f"member 'bad' is {what}" in refusal(tmp_path, "a.zip", zipped({"bad": b"../../x"}, bad=mode))


def test_a_zip_file_with_a_password_is_refused(tmp_path: Path) -> None:
    contents = bytearray(zipped({"model": b"1"}))
    contents[contents.rindex(b"PK\x01\x02") + 8] |= 1
    assert "member 'model' is locked with a password" in refusal(tmp_path, "a.zip", bytes(contents))


@pytest.mark.parametrize("members", [{"a": b"", "a/b": b""}, {"a/b": b"", "a": b""}])
@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_members_that_stand_in_each_others_way_are_refused(
    tmp_path: Path, name: str, members: dict[str, bytes]
) -> None:
    assert "stands where another one does" in refusal(tmp_path, name, packed(name, members))


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_archive_is_refused(tmp_path: Path, name: str, share: float) -> None:
    contents = packed(name, {f"{n}": bytes(range(256)) * 64 for n in range(4)})
    said = refusal(tmp_path, name, contents[: int(len(contents) * share)])
    assert said.startswith(("it is no whole archive", "the archive is empty"))


@pytest.mark.parametrize("name", ["a.zip", "a.tgz"])
def test_what_is_no_archive_is_refused(tmp_path: Path, name: str) -> None:
    assert refusal(tmp_path, name, b"<html>please log in</html>" * 100).startswith("it is no whole archive")


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_an_empty_archive_is_refused(tmp_path: Path, name: str) -> None:
    assert refusal(tmp_path, name, packed(name, {})) == "the archive is empty"


@pytest.mark.parametrize("name", ["a.zip", "a.tgz"])
def test_too_many_members_are_refused(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBERS", 10)
    contents = packed(name, {f"{n}": b"" for n in range(11)})
    assert refusal(tmp_path, name, contents) == "it holds more than 10 files and folders"


def test_a_header_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    header = bytearray(tarred({"x": b""}, x={"type": tarfile.XHDTYPE})[:512])
    header[124:136] = b"%011o\0" % (1 << 32)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    contents = gzip.compress(bytes(header) + bytes(1 << 20))
    assert refusal(tmp_path, "a.tgz", contents) == "it is no whole archive: a header of 4294967296 bytes"


@pytest.mark.parametrize("name", ["a.zip", "a.tgz"])
def test_a_bomb_stops_where_it_is_told_to(tmp_path: Path, name: str) -> None:
    archive = tmp_path / name
    archive.write_bytes(packed(name, {"zeros": bytes(50 << 20)}))
    taken = []

    def took(amount: int) -> None:
        taken.append(amount)
        if sum(taken) > 4 << 20:
            raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        archives.unpack(archive, took)
    assert (archive / "zeros").stat().st_size <= 4 << 20


def test_a_zip_file_that_lies_about_a_size_is_refused(tmp_path: Path) -> None:
    contents = bytearray(zipped({"model": b"1" * 1000}))
    place = contents.rindex(b"PK\x01\x02") + 24
    contents[place : place + 4] = struct.pack("<I", 10)
    assert refusal(tmp_path, "a.zip", bytes(contents)).startswith("it is no whole archive")


PARTS = st.sampled_from(["a", "b", ".", "..", "", "\\", "C:", "a\0b", "..\\", "é", " "])


@given(st.lists(PARTS, min_size=1, max_size=5).map("/".join))
def test_no_name_leads_out_of_the_folder(name: str) -> None:
    try:
        path = archives.member_path(name)
    except ValueError:
        return
    root = PurePosixPath("/folder/of/it")
    assert (root / path).is_relative_to(root)
    assert ".." not in path.parts


NAMES = st.text("abé .-_", min_size=1, max_size=8).filter(lambda name: name.strip("."))


@given(st.dictionaries(NAMES, st.binary(max_size=2000), min_size=2, max_size=5), st.sampled_from(KINDS))
def test_any_files_come_out_as_they_went_in(members: dict[str, bytes], name: str) -> None:
    with TemporaryDirectory() as folder:
        assert unpack(Path(folder), name, packed(name, members)) == members

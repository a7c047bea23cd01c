from __future__ import annotations

import pytest

from engine.runtimes import stores


@pytest.mark.parametrize("scheme", ["s3", "gs", "az", "http", "https", "memory", "sftp", "hf"])
def test_artefacts_come_from_where_fsspec_finds_files(scheme: str) -> None:
    assert stores.is_address(f"{scheme}://a/b")


@pytest.mark.parametrize("scheme", ["file", "local", "dir", "zip", "tar", "simplecache", "reference", "git", "S3", ""])
def test_no_address_is_opened_on_this_machine_or_through_another(scheme: str) -> None:
    assert not stores.is_address(f"{scheme}://a/b")


@pytest.mark.parametrize("uri", ["s3", "s3:a", "s3://", "simplecache::s3://a/b", " s3://a/b", "a/s3://b"])
def test_what_is_no_address_is_none(uri: str) -> None:
    assert not stores.is_address(uri)


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("https://me:hush@h:1/a@b.zip?sig=hush#hush", "https://h:1/a@b.zip"),
        ("https://h?sig=a/b@c", "https://h"),
        ("s3://bucket/model", "s3://bucket/model"),
        ("a path/with @ and ?#", "a path/with @ and ?#"),
    ],
)
def test_an_address_is_told_without_what_may_be_secret(uri: str, told: str) -> None:
    assert stores.shown(uri) == told


@pytest.mark.parametrize("tag", ["ETag", "etag", "Content-MD5", "content_hash", "md5Hash", "VersionId"])
def test_a_tag_tells_the_version_whatever_the_times_say(tag: str) -> None:
    first = stores.version_of({tag: "1", "size": 1, "LastModified": 1})
    assert first is not None
    assert stores.version_of({tag: "1", "size": 1, "LastModified": 2}) == first
    assert stores.version_of({tag: "2", "size": 1, "LastModified": 1}) != first


@pytest.mark.parametrize("time", ["LastModified", "Last-Modified", "last_modified", "mtime", "updated", "created"])
def test_times_and_size_tell_the_version_where_there_is_no_tag(time: str) -> None:
    first = stores.version_of({time: 1, "size": 1, "ETag": None})
    assert first is not None
    assert stores.version_of({time: 1, "size": 2}) != first
    assert stores.version_of({time: 2, "size": 1}) != first


@pytest.mark.parametrize("info", [{}, {"size": 1}, {"size": 1, "ETag": "", "mtime": None, "name": "a"}])
def test_a_size_alone_tells_no_version(info: dict[str, object]) -> None:
    assert stores.version_of(info) is None

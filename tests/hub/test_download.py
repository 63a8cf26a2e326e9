"""Downloads resume, restart where they must, and never take a wrong file for the right one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from learnsgl.errors import DownloadError, FolderError, HashMismatchError
from learnsgl.hub.download import NUM_TRIES, download, part_size

DATA = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(DATA).hexdigest()
URL = "https://files.example/small.whl"


class BrokenStream(httpx.SyncByteStream):
    """Some bytes, then a lost connection."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __iter__(self) -> Iterator[bytes]:
        yield self.data
        raise httpx.ReadError("connection lost")


@dataclass
class Server:
    """A file server; `breaks` says after how many bytes each answer in turn loses its connection."""

    data: bytes = DATA
    ranges: bool = True
    etag: str | None = '"v1"'
    breaks: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    asked: list[tuple[str | None, str | None]] = field(default_factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        wanted, condition = request.headers.get("Range"), request.headers.get("If-Range")
        self.asked.append((wanted, condition))
        if self.statuses:
            return httpx.Response(self.statuses.pop(0))
        headers = {"ETag": self.etag} if self.etag else {}
        start, status = 0, 200
        if wanted and self.ranges and (condition is None or condition == self.etag):
            start, status = int(wanted.removeprefix("bytes=").rstrip("-")), 206
            if start >= len(self.data):
                return httpx.Response(416, headers={"Content-Range": f"bytes */{len(self.data)}"})
            headers["Content-Range"] = f"bytes {start}-{len(self.data) - 1}/{len(self.data)}"
        body = self.data[start:]
        headers["Content-Length"] = str(len(body))
        if self.breaks:
            return httpx.Response(status, headers=headers, stream=BrokenStream(body[: self.breaks.pop(0)]))
        return httpx.Response(status, headers=headers, content=body)

    def fetch(self, target: Path, sha256: str = SHA256) -> None:
        client = httpx.Client(transport=httpx.MockTransport(self))
        download(URL, target, sha256=sha256, progress=False, client=client, pause_s=0.0)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "new folder" / "small.whl"


def leave_part(target: Path, num_bytes: int, server: Server) -> None:
    """End a first try after so many bytes, for good."""
    ends = Server(data=server.data, etag=server.etag, breaks=[num_bytes], statuses=[])

    def answer(request: httpx.Request) -> httpx.Response:
        return ends(request) if ends.breaks else httpx.Response(404)

    client = httpx.Client(transport=httpx.MockTransport(answer))
    with pytest.raises(DownloadError, match="are kept"):
        download(URL, target, sha256=SHA256, progress=False, client=client, pause_s=0.0)
    assert part_size(target) == num_bytes


def test_a_whole_file_arrives_and_nothing_else_is_left(target: Path) -> None:
    Server().fetch(target)
    assert target.read_bytes() == DATA
    assert list(target.parent.iterdir()) == [target]


def test_a_lost_connection_is_taken_up_where_it_broke(target: Path) -> None:
    server = Server(breaks=[1000, 50_000])
    server.fetch(target)
    assert server.asked == [(None, None), ("bytes=1000-", '"v1"'), ("bytes=51000-", '"v1"')]
    assert target.read_bytes() == DATA


def test_a_later_run_goes_on_from_what_was_kept(target: Path) -> None:
    server = Server()
    leave_part(target, 777, server)
    server.fetch(target)
    assert server.asked == [("bytes=777-", '"v1"')]
    assert target.read_bytes() == DATA


def test_a_server_without_ranges_starts_again(target: Path) -> None:
    server = Server(ranges=False, breaks=[1000])
    server.fetch(target)
    assert len(server.asked) == 2
    assert target.read_bytes() == DATA


def test_another_version_of_the_file_is_not_appended(target: Path) -> None:
    leave_part(target, 777, Server(data=b"x" * 5000, etag='"old"'))
    server = Server()
    server.fetch(target)
    assert server.asked == [("bytes=777-", '"old"')]
    assert target.read_bytes() == DATA


def test_a_weak_etag_is_not_used_to_resume(target: Path) -> None:
    server = Server(etag='W/"v1"', breaks=[10])
    server.fetch(target)
    assert server.asked == [(None, None), ("bytes=10-", None)]
    assert target.read_bytes() == DATA


def test_a_complete_part_needs_no_more_bytes(target: Path) -> None:
    target.parent.mkdir()
    target.with_name("small.whl.part").write_bytes(DATA)
    Server().fetch(target)
    assert target.read_bytes() == DATA


def test_a_part_longer_than_the_file_is_thrown_away(target: Path) -> None:
    target.parent.mkdir()
    target.with_name("small.whl.part").write_bytes(DATA + b"more")
    server = Server()
    server.fetch(target)
    assert [wanted for wanted, _ in server.asked] == [f"bytes={len(DATA) + 4}-", None]
    assert target.read_bytes() == DATA


def test_a_server_error_is_tried_again_a_missing_file_is_not(target: Path) -> None:
    server = Server(statuses=[503, 429])
    server.fetch(target)
    assert len(server.asked) == 3
    missing = Server(statuses=[404, 404])
    with pytest.raises(DownloadError, match="404"):
        missing.fetch(target.with_name("other.whl"))
    assert len(missing.asked) == 1


def test_a_dead_server_ends_in_an_error_after_some_tries(target: Path) -> None:
    server = Server(statuses=[500] * 20)
    with pytest.raises(DownloadError, match=r"500.*Check the network"):
        server.fetch(target)
    assert len(server.asked) == NUM_TRIES


def test_a_server_that_never_gets_further_ends_in_an_error_too(target: Path) -> None:
    server = Server(ranges=False, breaks=[4000, 5000] * 20)
    with pytest.raises(DownloadError, match="are kept"):
        server.fetch(target)
    assert len(server.asked) <= 2 * NUM_TRIES


def test_a_wrong_file_is_removed_and_named_by_its_hashes(target: Path) -> None:
    with pytest.raises(HashMismatchError) as caught:
        Server(data=b"something else").fetch(target)
    assert SHA256 in str(caught.value)
    assert hashlib.sha256(b"something else").hexdigest() in str(caught.value)
    assert list(target.parent.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match="LEARNSGL_HOME"):
        Server().fetch(tmp_path / "file" / "small.whl")


def test_settings_that_no_client_can_be_made_with_are_said_so(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", __file__)
    with pytest.raises(DownloadError, match="SSL_CERT_FILE"):
        download(URL, target, sha256=SHA256, progress=False)


def test_too_little_disk_is_seen_before_the_first_byte(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("learnsgl.hub.store.shutil.disk_usage", lambda path: usage(10**6, 10**6 - 500, 500))
    with pytest.raises(FolderError, match=r"0 MB are free"):
        Server().fetch(target)
    assert part_size(target) == 0

"""Fetch one file over HTTP, and go on where an earlier try ended.

Called by `builtin.py`. What has arrived lies in `NAME.part`, beside `NAME.part.json`, which remembers which version
of the file that is (RFC 9110, sections 13.1.5 and 14: If-Range and range requests).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm  # type: ignore[import-untyped]

from learnsgl.errors import DownloadError, HashMismatchError
from learnsgl.hub.store import need_space, sha256_of, writing_to

NUM_TRIES = 5
TIMEOUT = httpx.Timeout(30.0, connect=15.0)


@dataclass
class _Part:
    """The half-finished file: its data, and the validator (ETag or date) of the version it belongs to."""

    path: Path
    url: str

    @property
    def note(self) -> Path:
        return self.path.with_name(self.path.name + ".json")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def validator(self) -> str | None:
        """What the server called this version of the file; `None` when it didn't, or it's of another URL."""
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
            return str(note["validator"]) if note["url"] == self.url else None
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def begin(self, validator: str | None) -> None:
        self.path.write_bytes(b"")
        if validator is None:
            self.note.unlink(missing_ok=True)
        else:
            self.note.write_text(json.dumps({"url": self.url, "validator": validator}), encoding="utf-8")

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def part_size(target: Path) -> int:
    """Bytes of `target` that have arrived and wait for the rest."""
    return _Part(_part_path(target), "").size


def _part_path(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def download(
    url: str,
    target: Path,
    *,
    sha256: str,
    progress: bool,
    client: httpx.Client | None = None,
    pause_s: float = 1.0,
) -> None:
    """Fetch `url` into `target`, resuming what is there, and check its SHA-256.

    Args:
        url: an http(s) URL.
        target: the finished file; its folder is made where it is missing.
        sha256: what the file must hash to, in hexadecimal.
        progress: show a bar on stderr.
        client: who sends the requests; tests bring their own.
        pause_s: wait before the second try; doubled each time.

    Raises:
        DownloadError: the server can't be reached or the connection broke; what arrived is kept.
        HashMismatchError: the file arrived whole and is another one; it is removed.
        FolderError: the folder can't be written.
    """
    part = _Part(_part_path(target), url)
    with writing_to(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        with client or _new_client(url) as session:
            _fetch(session, part, progress, pause_s)
        given = sha256_of(part.path)
        if given != sha256:
            part.remove()
            raise HashMismatchError(
                f"{url} has SHA-256 {given} where {sha256} is expected, so it isn't the file that was published; it "
                "was removed. Try again; if it happens twice, the index or a proxy gives another file"
            )
        part.path.replace(target)
        part.note.unlink(missing_ok=True)


def _new_client(url: str) -> httpx.Client:
    try:
        return httpx.Client(timeout=TIMEOUT, follow_redirects=True)
    except (OSError, ValueError) as error:  # httpx reads certificates and proxies from the environment here
        raise DownloadError(
            f"{url} can't be fetched with these settings ({type(error).__name__}: {error}); check SSL_CERT_FILE, "
            "SSL_CERT_DIR and HTTPS_PROXY"
        ) from error


def _fetch(session: httpx.Client, part: _Part, progress: bool, pause_s: float) -> None:
    """Try until all is here. A try that got further than any before it starts the count of failures again."""
    failures, most = 0, part.size
    while True:
        try:
            _fetch_rest(session, part, progress)
            return
        except (httpx.TransportError, httpx.HTTPStatusError) as error:
            failures = 1 if part.size > most else failures + 1
            most = max(most, part.size)
            status = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else None
            hopeless = status is not None and status < 500 and status not in {408, 429}
            if hopeless or failures >= NUM_TRIES:
                raise DownloadError(_why_it_failed(part, error, status)) from error
            time.sleep(pause_s * 2 ** (failures - 1))


def _why_it_failed(part: _Part, error: Exception, status: int | None) -> str:
    said = f"HTTP status {status}" if status is not None else f"{type(error).__name__}: {error}"
    kept = f" {part.size / 1e6:.1f} MB have arrived and are kept; the next try goes on from there." if part.size else ""
    return f"{part.url} couldn't be fetched ({said}).{kept} Check the network (and HTTPS_PROXY, SSL_CERT_FILE)"


def _fetch_rest(session: httpx.Client, part: _Part, progress: bool) -> None:
    """One request for what is missing; the server may also send the whole file again."""
    headers = {"Accept-Encoding": "identity"}  # a compressed answer has other byte positions
    if part.size:
        headers["Range"] = f"bytes={part.size}-"
        if validator := part.validator():
            headers["If-Range"] = validator
    with session.stream("GET", part.url, headers=headers) as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and part.size:
            if response.headers.get("Content-Range", "").endswith(f"/{part.size}"):
                return  # everything was here already
            part.remove()
            raise httpx.RemoteProtocolError("what is here isn't the beginning of the server's file")
        response.raise_for_status()
        total = _total_bytes(response, part)
        need_space(part.path.parent, (total or 0) - part.size)
        resumes = response.status_code == httpx.codes.PARTIAL_CONTENT
        if not resumes:
            etag = response.headers.get("ETag", "")
            strong = etag if etag and not etag.startswith("W/") else None
            part.begin(strong or response.headers.get("Last-Modified"))
        with part.path.open("ab") as file, _bar(total, part.size, part.path.stem, progress) as bar:
            for chunk in response.iter_bytes():  # as they come: a chunk size would hold bytes back
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and part.size < total:
        raise httpx.RemoteProtocolError(f"the connection ended at {part.size} of {total} bytes")


def _total_bytes(response: httpx.Response, part: _Part) -> int | None:
    """Length of the whole file, where the server tells."""
    if response.status_code == httpx.codes.PARTIAL_CONTENT:
        unit_and_range, _, total = response.headers.get("Content-Range", "").partition("/")
        if unit_and_range.removeprefix("bytes ").split("-")[0] != str(part.size):
            part.remove()
            raise httpx.RemoteProtocolError(f"the server sent {unit_and_range!r}, which isn't what is missing")
        return int(total) if total.isdigit() else None
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


@contextmanager
def _bar(total: int | None, have: int, name: str, progress: bool) -> Iterator[Any]:
    # a log file gets a line every ten seconds, a terminal a bar that moves
    interval = 0.1 if sys.stderr.isatty() else 10.0
    with tqdm(
        total=total, initial=have, desc=name, unit="B", unit_scale=True, disable=not progress, mininterval=interval
    ) as bar:
        yield bar

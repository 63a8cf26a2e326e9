"""A recording takes the place of the one before it, and nothing that the demo didn't make is ever deleted."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from learnsgl.config import Config
from learnsgl.demo.folder import DemoFolder
from learnsgl.errors import FolderError, TraceError
from learnsgl.trace.manifest import create_run, read_manifest


def record(folder: DemoFolder) -> str:
    """Stand in for the server: one run in the folder that it was given."""
    run = create_run(folder.recording, Config().to_json(), ["learnsgl", "serve"])
    (run / "api.1.trace").write_bytes(b"frames")
    return str(read_manifest(run)["run_id"])


def test_a_new_recording_replaces_the_old_one(tmp_path: Path) -> None:
    for _ in range(2):
        with DemoFolder(tmp_path / "demo") as folder:
            run_id = record(folder)
            trace = folder.keep_recording()
        assert read_manifest(trace)["run_id"] == run_id
        assert sorted(path.name for path in trace.parent.iterdir()) == ["trace"]


def test_an_interrupted_demo_keeps_the_old_recording_and_leaves_nothing(tmp_path: Path) -> None:
    with DemoFolder(tmp_path) as folder:
        first = record(folder)
        folder.keep_recording()
    with contextlib.suppress(KeyboardInterrupt), DemoFolder(tmp_path) as folder:
        record(folder)
        raise KeyboardInterrupt
    assert read_manifest(tmp_path / "trace")["run_id"] == first
    assert [path.name for path in tmp_path.iterdir()] == ["trace"]


@pytest.mark.parametrize("name", ["notes.txt", "20260101-000000-abcdef12/api.1.trace"])
def test_what_the_demo_did_not_make_stays(tmp_path: Path, name: str) -> None:
    other = tmp_path / "trace" / name
    other.parent.mkdir(parents=True)
    other.write_bytes(b"mine")
    with pytest.raises(FolderError, match="which the demo didn't make"), DemoFolder(tmp_path):
        pytest.fail("nothing may start")
    assert other.read_bytes() == b"mine"


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.mkdir()
    (target / "api.1.trace").write_bytes(b"mine")
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "trace").symlink_to(target)
    with pytest.raises(FolderError, match="no folder that the demo made"), DemoFolder(tmp_path / "demo"):
        pytest.fail("nothing may start")
    assert (target / "api.1.trace").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FolderError, match="name another folder with --out"), DemoFolder(tmp_path / "file" / "demo"):
        pytest.fail("nothing may start")


def test_a_server_that_recorded_nothing_is_an_error(tmp_path: Path) -> None:
    with DemoFolder(tmp_path) as folder, pytest.raises(TraceError, match="has recorded nothing"):
        folder.keep_recording()

"""The manifest: what ran, on what, without a name that nobody asked to write down."""

from __future__ import annotations

import getpass
import json
import platform
from datetime import UTC, datetime
from pathlib import Path

import pytest

from learnsgl import __version__
from learnsgl.config import Config
from learnsgl.errors import FolderError
from learnsgl.trace.clock import ClockAnchor, anchor_from_json, read_anchor
from learnsgl.trace.manifest import create_run, read_manifest, run_id_of, update_manifest


def test_a_run_has_a_folder_and_a_manifest(tmp_path: Path) -> None:
    folder = create_run(tmp_path / "deep" / "runs", Config().to_json(), ["learnsgl", "serve"], {"name": "m"})
    manifest = read_manifest(folder)
    assert folder.name.endswith("-" + manifest["run_id"])
    assert run_id_of(folder) == manifest["run_id"]
    assert manifest["format"] == "learnsgl-trace"
    assert manifest["command"] == ["learnsgl", "serve"]
    assert manifest["config"]["trace"]["trace_level"] == "full"
    assert manifest["model"] == {"name": "m"}
    assert manifest["versions"]["learnsgl"] == __version__
    assert manifest["versions"]["torch"]
    assert manifest["hardware"]["num_cores"] >= 1
    assert anchor_from_json(manifest["clock"]) is not None
    assert [path.name for path in folder.iterdir()] == ["manifest.json"]


def test_two_runs_never_share_a_folder(tmp_path: Path) -> None:
    assert create_run(tmp_path, {}, []) != create_run(tmp_path, {}, [])


def test_nobody_is_named(tmp_path: Path) -> None:
    text = (create_run(tmp_path, {}, ["learnsgl"]) / "manifest.json").read_text()
    strings = set(text.replace('"', " ").split())
    assert platform.node() not in strings
    assert getpass.getuser() not in strings


def test_facts_that_are_known_later_are_added(tmp_path: Path) -> None:
    folder = create_run(tmp_path, {}, [])
    before = read_manifest(folder)
    assert update_manifest(folder, state="ended", engine={"num_pages": 5})
    assert read_manifest(folder) == before | {"state": "ended", "engine": {"num_pages": 5}}
    assert [path.name for path in folder.iterdir()] == ["manifest.json"]


def test_a_manifest_that_can_t_be_updated_harms_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = create_run(tmp_path, {}, [])
    (folder / "manifest.json").write_text("{broken")
    assert not update_manifest(folder, state="ended")
    assert not update_manifest(tmp_path / "gone", state="ended")
    assert caplog.text.count("can't be updated") == 2


def test_a_folder_that_can_t_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match=r"--trace .*file: no recording can be made there \(Not a directory\)"):
        create_run(tmp_path / "file", {}, [])


def test_the_anchor_gives_the_wall_clock() -> None:
    anchor = ClockAnchor(1_000, 1_700_000_000_000_000_000)
    assert anchor.wall(1_000 + 1_500_000_000) == datetime(2023, 11, 14, 22, 13, 21, 500_000, tzinfo=UTC)
    assert anchor_from_json(anchor.to_json()) == anchor
    assert anchor_from_json({"monotonic_ns": "x"}) is None
    assert anchor_from_json(None) is None
    first, second = read_anchor(), read_anchor()
    assert first.monotonic_ns <= second.monotonic_ns


def test_the_manifest_is_json_for_everyone(tmp_path: Path) -> None:
    folder = create_run(tmp_path, Config().to_json(), ["größe"])
    assert json.loads((folder / "manifest.json").read_bytes())["command"] == ["größe"]

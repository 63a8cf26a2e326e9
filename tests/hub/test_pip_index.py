"""What pip answers, and what becomes of it when it doesn't."""

from __future__ import annotations

import json
import subprocess
import zipfile
from pathlib import Path

import pytest

from learnsgl.errors import DownloadError
from learnsgl.hub import pip_index
from learnsgl.hub.pip_index import fetch_with_pip, find_wheel


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip is told to use instead of any index."""
    folder = tmp_path / "wheels here"
    folder.mkdir()
    info = "small_model-1.0.dist-info"
    with zipfile.ZipFile(folder / "small_model-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: small-model\nVersion: 1.0\nRequires-Dist: nope\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", folder.as_uri())
    return folder


def test_the_users_own_settings_say_where_the_wheel_lies(index: Path) -> None:
    location = find_wheel("small-model==1.0", instead="…")
    assert location.filename == "small_model-1.0-py3-none-any.whl"
    assert location.url == (index / location.filename).as_uri()


def test_a_package_that_no_index_has_is_said_so(index: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        find_wheel("other-model==2.0", instead="bring a wheel")
    assert "other-model==2.0" in str(caught.value)
    assert "No matching distribution" in str(caught.value)
    assert str(caught.value).endswith("or bring a wheel")


def test_pip_itself_can_fetch_the_wheel(index: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "small_model-1.0-py3-none-any.whl"
    assert fetch_with_pip("small-model==1.0", target)
    assert target.read_bytes() == (index / target.name).read_bytes()
    assert not fetch_with_pip("other-model==2.0", target.with_name("other.whl"))


def test_another_index_is_asked_in_the_place_of_pips_own(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "simple" / "small-model" / "index.html"
    page.parent.mkdir(parents=True)
    wheel = index / "small_model-1.0-py3-none-any.whl"
    page.write_text(f'<!DOCTYPE html><html><body><a href="{wheel.as_uri()}">{wheel.name}</a></body></html>')
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/refused")
    url = (tmp_path / "simple").as_uri()
    assert find_wheel("small-model==1.0", instead="…", index_url=url).url == wheel.as_uri()
    assert fetch_with_pip("small-model==1.0", tmp_path / "here" / wheel.name, index_url=url)


def fake_pip(monkeypatch: pytest.MonkeyPatch, *answers: tuple[int, str, str]) -> list[list[str]]:
    """Answer with these exit codes, outputs and error outputs; returns the commands that were run."""
    commands: list[list[str]] = []

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        code, out, err = answers[len(commands) - 1]
        return subprocess.CompletedProcess(command, code, out, err)

    monkeypatch.setattr(pip_index.subprocess, "run", run)
    return commands


def test_a_missing_pip_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_pip(monkeypatch, (1, "", "/usr/bin/python3: No module named pip\n"))
    with pytest.raises(DownloadError, match="ensurepip"):
        find_wheel("a==1", instead="…")


def test_a_network_that_is_down_is_named_rather_than_what_follows_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "WARNING: Retrying after connection broken by 'ProxyError': /simple/a/\nERROR: No matching distribution"
    fake_pip(monkeypatch, (1, "", said))
    with pytest.raises(DownloadError, match=r"can't reach its index.*ProxyError"):
        find_wheel("a==1", instead="…")


def test_a_pip_without_the_lazy_feature_is_asked_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    report = json.dumps({"install": [{"download_info": {"url": "https://x/y/a-1-py3-none-any.whl#sha256=0"}}]})
    commands = fake_pip(monkeypatch, (2, "", "invalid choice: 'fast-deps'"), (0, report, ""))
    assert find_wheel("a==1", instead="…").filename == "a-1-py3-none-any.whl"
    assert ["--use-feature=fast-deps" in command for command in commands] == [True, False]


def test_an_answer_without_a_url_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_pip(monkeypatch, (0, '{"install": []}', ""))
    with pytest.raises(DownloadError, match="upgrade pip"):
        find_wheel("a==1", instead="…")


def test_a_pip_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(command: list[str], **options: object) -> None:
        raise subprocess.TimeoutExpired(command, 1.0)

    monkeypatch.setattr(pip_index.subprocess, "run", hang)
    with pytest.raises(DownloadError, match="check the network"):
        find_wheel("a==1", instead="…")

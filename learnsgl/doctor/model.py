"""The check on the built-in model: is it here, whole, and what it was when it was written?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from learnsgl.config import BUILT_IN_MODEL
from learnsgl.doctor.machine import WHEEL_BYTES, mb
from learnsgl.doctor.place import Place
from learnsgl.doctor.report import Finding, fault, ok, warning

_PULL = f"learnsgl model pull {BUILT_IN_MODEL}"


def check_model(place: Place) -> Finding:
    """The built-in model in the cache folder."""
    return judge_model(place.cache, BUILT_IN_MODEL)


def judge_model(cache: Path, name: str) -> Finding:
    """Whether the model `name` below `cache` is whole, by its manifest and the hash of each file."""
    from learnsgl.hub.store import MANIFEST, downloads_folder, models_folder, read_manifest

    folder = models_folder(cache) / name
    parts = sorted((downloads_folder(cache) / name).glob("*.part"))
    if not folder.exists():
        if parts:
            have = sum(part.stat().st_size for part in parts)
            return warning(
                f"{name} is pulled in part: {mb(have)} of {mb(WHEEL_BYTES)}", "the next pull goes on from there", _PULL,
                bytes=have,
            )  # fmt: skip
        return warning(
            f"{name} isn't here yet; the first start fetches {mb(WHEEL_BYTES)}", "pull it while there is a network",
            _PULL,
        )  # fmt: skip
    manifest = read_manifest(folder)
    if manifest is None:
        return warning(
            f"{folder} isn't whole: files are missing or have another size than {MANIFEST} says",
            "pull it again; the next start does it by itself", _PULL, folder=str(folder),
        )  # fmt: skip
    changed = changed_files(folder, manifest)
    if changed:
        return fault(
            f"{', '.join(changed)} in {folder} isn't what it was when it was written: its SHA-256 is another one",
            "remove the model and pull it again", f"learnsgl model rm --yes {name} && learnsgl model pull {name}",
            folder=str(folder), changed=changed,
        )  # fmt: skip
    return ok(f"{name} is whole in {folder}; the SHA-256 of its {len(manifest['files'])} files are right")


def changed_files(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """Names of the files whose SHA-256 isn't the one in the manifest."""
    from learnsgl.hub.store import sha256_of

    return [name for name, facts in manifest["files"].items() if sha256_of(folder / name) != facts["sha256"]]

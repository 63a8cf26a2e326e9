"""What `learnsgl model rm` removes: a model in the cache folder, and what was downloaded of it. Nothing else, ever."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from learnsgl.errors import ModelNotFoundError, OptionError
from learnsgl.hub.store import MANIFEST, downloads_folder, models_folder, remove_built


@dataclass(frozen=True)
class Removable:
    """What is here of a model.

    Attributes:
        name: as `learnsgl model ls` lists it.
        model: its folder; `None` where there is none.
        download: what was downloaded of it and isn't finished; `None` where there is none.
        num_bytes: what comes back.
    """

    name: str
    model: Path | None
    download: Path | None
    num_bytes: int

    def remove(self) -> None:
        """Remove it; a server that has the model loaded goes on with it."""
        if self.model is not None:
            remove_built(self.model)
        if self.download is not None:
            shutil.rmtree(self.download)


def find_removable(name: str, cache: Path) -> Removable:
    """What `learnsgl model rm NAME` would remove.

    Raises:
        ModelNotFoundError: nothing of that name is in the cache folder.
        OptionError: something is, and learnsgl didn't make it; or it lies elsewhere.
    """
    models = models_folder(cache)
    if not name or name.startswith(".") or Path(name).name != name:
        raise OptionError(
            f"{name!r} isn't the name of a model in {models}; only these are removed (`learnsgl model ls` lists them). "
            "Remove a folder or file of your own by hand, and a repository in Hugging Face's cache with "
            "`hf cache rm model/ORG/NAME`"
        )
    model, download = models / name, downloads_folder(cache) / name
    if model.is_symlink() or (model.exists() and not (model / MANIFEST).is_file()):
        raise OptionError(f"{model} wasn't made by learnsgl (it has no {MANIFEST}); remove it by hand")
    if not model.exists() and not download.is_dir():
        raise ModelNotFoundError(f"there is no model {name!r} in {models}; `learnsgl model ls` lists what is here")
    here = [path for path in (model, download) if path.is_dir()]
    num_bytes = sum(file.stat().st_size for path in here for file in path.rglob("*") if file.is_file())
    return Removable(name, model if model in here else None, download if download in here else None, num_bytes)

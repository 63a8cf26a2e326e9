"""Models of the Hugging Face Hub: those in its local cache first, else downloaded with its own client.

Called by `resolve.py` for names such as `org/name`.
"""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from learnsgl.errors import DownloadError, FolderError, LearnsglError, ModelNotFoundError
from learnsgl.hub.model_files import ModelFiles, ModelSource, read_model_files
from learnsgl.hub.store import CANNOT_WRITE

WITHOUT_WEIGHTS = ("*.json", "*.jinja")
NEEDED = (*WITHOUT_WEIGHTS, "*.safetensors")
"""What is served from: configuration, tokenizer and chat template, and weights."""


def find_repository(repo_id: str, name: str, *, hf_cache: Path | None = None, needs_weights: bool = True) -> ModelFiles:
    """The files of a repository.

    A whole copy in the local cache is taken as it is, without asking the network whether there is a newer one: the
    same command serves the same model, online and offline.

    Args:
        repo_id: `org/name`.
        name: what clients call the model.
        hf_cache: the Hub client's cache folder; by default its own choice.
        needs_weights: whether the weights are wanted, and fetched, too.

    Raises:
        ModelNotFoundError: the Hub has no such repository, or doesn't show it to this user.
        DownloadError: it isn't in the local cache, and the Hub can't be reached.
        FolderError: the Hub client's cache folder can't be written.
        UnsupportedModelError: the repository is there, and can't be served.
    """
    wanted = NEEDED if needs_weights else WITHOUT_WEIGHTS

    def read(folder: Path) -> ModelFiles:
        return read_model_files(folder, name, ModelSource.REPOSITORY, needs_weights=needs_weights)

    local = local_copy(repo_id, hf_cache)
    if local is not None:
        try:
            return read(local)
        except LearnsglError as error:  # a part is missing here (fetch it), or in the repository itself (then say so)
            try:
                return read(_fetch(repo_id, hf_cache, wanted))
            except DownloadError:
                raise error from None
    return read(_fetch(repo_id, hf_cache, wanted))


def local_copy(repo_id: str, hf_cache: Path | None = None) -> Path | None:
    """A repository's folder in the local cache, as far as it is there; the network isn't asked."""
    try:
        return Path(snapshot_download(repo_id, cache_dir=hf_cache, allow_patterns=list(NEEDED), local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _fetch(repo_id: str, hf_cache: Path | None, wanted: tuple[str, ...]) -> Path:
    try:
        return Path(snapshot_download(repo_id, cache_dir=hf_cache, allow_patterns=list(wanted)))
    except RepositoryNotFoundError as error:
        raise ModelNotFoundError(
            f"Hugging Face has no repository {repo_id!r} that this machine may read; check the name, and for a "
            "private or gated model log in with `hf auth login`"
        ) from error
    except Exception as error:  # versions of the client use different HTTP libraries, each with errors of its own
        if isinstance(error, OSError) and error.errno in CANNOT_WRITE:
            raise FolderError(
                f"{repo_id} can't be written to the Hugging Face cache ({error}); free some space, or set HF_HOME to "
                "a folder that you may write to"
            ) from error
        raise DownloadError(
            f"{repo_id} isn't whole in the local Hugging Face cache, and couldn't be fetched ({error}); check the "
            "network, or give the path of a folder that holds the model"
        ) from error

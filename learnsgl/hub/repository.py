"""Models of the Hugging Face Hub: those in its local cache first, else downloaded with its own client.

Called by `resolve.py` for names such as `org/name`.
"""

from __future__ import annotations

from pathlib import Path

import httpx
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from learnsgl.errors import DownloadError, ModelNotFoundError

NEEDED = ("*.json", "*.safetensors", "*.jinja")
"""What is served from: configuration, weights, tokenizer and chat template."""


def find_repository(repo_id: str, *, hf_cache: Path | None = None) -> Path:
    """The folder of a repository's files.

    A copy in the local cache is taken as it is, without asking the network whether there is a newer one: the same
    command serves the same model, online and offline.

    Args:
        repo_id: `org/name`.
        hf_cache: the Hub client's cache folder; by default its own choice.

    Raises:
        ModelNotFoundError: the Hub has no such repository, or doesn't show it to this user.
        DownloadError: it isn't in the local cache, and the Hub can't be reached.
    """
    try:
        local = Path(snapshot_download(repo_id, cache_dir=hf_cache, allow_patterns=list(NEEDED), local_files_only=True))
        if (local / "config.json").is_file() and any(local.glob("*.safetensors")):
            return local
    except LocalEntryNotFoundError:
        pass  # not in the cache: fetch it
    try:
        return Path(snapshot_download(repo_id, cache_dir=hf_cache, allow_patterns=list(NEEDED)))
    except RepositoryNotFoundError as error:
        raise ModelNotFoundError(
            f"Hugging Face has no repository {repo_id!r} that this machine may read; check the name, and for a "
            "private or gated model log in with `hf auth login`"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise DownloadError(
            f"{repo_id} isn't in the local Hugging Face cache, and couldn't be fetched ({error}); check the network, "
            "or give the path of a folder that holds the model"
        ) from error

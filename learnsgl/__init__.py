"""learnsgl: an LLM inference server that records what each of its parts does, so that it can be replayed.

`from learnsgl import LLM, SamplingParams` is the offline API. Nothing is loaded before it is asked for, so that the
command line starts at once, and torch is loaded only when an `LLM` is made.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from learnsgl.core import SamplingParams
    from learnsgl.llm import LLM

__all__ = ["LLM", "SamplingParams", "__version__"]

__version__ = "0.1.0"

_HOMES = {"LLM": "learnsgl.llm", "SamplingParams": "learnsgl.core"}


def __getattr__(name: str) -> Any:
    """Load a public name from its module when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

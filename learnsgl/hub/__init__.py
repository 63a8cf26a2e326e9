"""Models on disk: from the name of a model to a folder in Hugging Face's layout.

The launcher and the `model` command call `resolve_model`; everything behind it is torch-free, and reaches the
network only for a model that isn't complete in the cache folder.
"""

from learnsgl.hub.model_files import ModelFiles
from learnsgl.hub.resolve import resolve_model

__all__ = ["ModelFiles", "resolve_model"]

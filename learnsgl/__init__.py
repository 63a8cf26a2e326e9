"""learnsgl: an LLM inference server that records what each of its parts does, so that it can be replayed."""

__version__ = "0.1.0"

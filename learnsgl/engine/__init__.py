"""The executor that runs the real model: weights, KV pages, forward passes and sampling, in one process.

Whoever loads a part of this package comes by here first, which is the last moment before torch is loaded: so this is
where its idle threads are told to wait for a short while only.
"""

from __future__ import annotations

from learnsgl.config import limit_spinning

SHORT_WAITS = limit_spinning()
"""False where torch was in this process first, as it can be in a notebook; `create_engine` says what follows."""

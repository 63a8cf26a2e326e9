"""Replay: the server at any moment of a recording, why it did what it did, and where the time went.

It reads traces and nothing else; the server never imports it.
"""

from learnsgl.replay.replay import Replay
from learnsgl.replay.server_state import Moment, ServerState

__all__ = ["Moment", "Replay", "ServerState"]

from __future__ import annotations

from tests.server.conftest import home, start

__all__ = ["home", "start"]

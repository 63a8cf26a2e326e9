from __future__ import annotations

from tests.llm.conftest import home, home_folder

__all__ = ["home", "home_folder"]

"""What the notebooks share: a real server that they start and stop, commands shown with their output, and the checks.

The lessons in `notebooks/` and `traces/record.py` import it. The server never does.
"""

from learnsgl.lessons.checks import Outcome, Result, reveal
from learnsgl.lessons.server import LocalServer
from learnsgl.lessons.shell import shell

__all__ = ["LocalServer", "Outcome", "Result", "reveal", "shell"]

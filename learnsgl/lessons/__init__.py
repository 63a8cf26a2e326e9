"""What the notebooks share: a real server that they start and stop, commands shown with their output, and the checks.

The lessons in `notebooks/` and `traces/record.py` import it. The server never does.
"""

from learnsgl.lessons.checks import Outcome, Result, reveal
from learnsgl.lessons.shell import shell
from learnsgl.local_server import LocalServer

__all__ = ["LocalServer", "Outcome", "Result", "reveal", "shell"]

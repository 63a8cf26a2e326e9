"""A real server for Python code: started with one line, stopped with one line, and never left behind.

The chat, the lessons, the recordings and the benchmarks use it; the server itself doesn't know it.
"""

from learnsgl.local_server.server import LocalServer

__all__ = ["LocalServer"]

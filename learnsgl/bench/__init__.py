"""`learnsgl bench`: honest figures for the server's parts and for the whole, with what they were measured on.

`cli.py` calls `add_bench_command`. Each benchmark prints tables and writes one JSON file; `docs/benchmarks.md` shows
the tables of those files, and a test fails where it shows anything else.
"""

from learnsgl.bench.command import add_bench_command

__all__ = ["add_bench_command"]

"""A bar on the terminal while requests run: how many have ended, how many failed, how many tokens a second.

`drive.py` tells it of each request's end. Where standard error isn't a terminal, nothing is shown.
"""

from __future__ import annotations

import time

from tqdm import tqdm  # type: ignore[import-untyped]

from learnsgl.bench.online.results import Row


class Progress:
    """The bar of one run.

    Args:
        name: of the run.
        num_requests: of the run.
        is_shown: `None`: where standard error is a terminal.
    """

    def __init__(self, name: str, num_requests: int, is_shown: bool | None = None) -> None:
        self._bar = tqdm(desc=name, total=num_requests, unit="req", disable=None if is_shown is None else not is_shown)
        self._start_s = time.monotonic()
        self._num_tokens = 0
        self._num_errors = 0

    def ended(self, row: Row) -> None:
        """Count a request."""
        self._num_tokens += row.output_tokens
        self._num_errors += row.outcome.is_error
        rate = self._num_tokens / max(1e-9, time.monotonic() - self._start_s)
        errors = f", {self._num_errors} failed" if self._num_errors else ""
        self._bar.set_postfix_str(f"{rate:,.0f} tok/s{errors}", refresh=False)
        self._bar.update()

    def close(self) -> None:
        """Leave the bar as it is, and go to the next line."""
        self._bar.close()

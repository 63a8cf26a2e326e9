"""A progress bar with tokens a second, on stderr: for `LLM.generate(progress=True)` and for `learnsgl generate`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from tqdm import tqdm  # type: ignore[import-untyped]

from learnsgl.offline.completion import Progress

OnProgress = Callable[[Progress], None]

DELAY_S = 2.0
"""Where stderr isn't a terminal, a bar appears only for work that takes longer than this."""
_FORMAT = "{n_fmt}/{total_fmt} prompts |{bar:30}| {elapsed}<{remaining}{postfix}"


class ProgressBar:
    """A bar that moves with the prompts and tells the tokens a second."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def __call__(self, progress: Progress) -> None:
        """Show how far the work has come."""
        if self._bar is None:
            is_terminal = sys.stderr.isatty()
            self._bar = tqdm(
                total=progress.num_prompts, bar_format=_FORMAT, miniters=0, mininterval=0.2 if is_terminal else 2.0,
                delay=0.0 if is_terminal else DELAY_S, dynamic_ncols=is_terminal,
            )  # fmt: skip
        rate = f"{progress.tokens_per_s:.1f} tokens/s, {progress.num_tokens} tokens"
        self._bar.set_postfix_str(rate, refresh=False)
        self._bar.update(progress.num_finished - self._bar.n)

    def close(self) -> None:
        """Leave the last state of the bar on the screen."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


@contextlib.contextmanager
def progress_shown(wanted: bool | OnProgress) -> Iterator[OnProgress]:
    """Whom to tell: the given function, a new bar, or nobody."""
    if not isinstance(wanted, bool):
        yield wanted
        return
    if not wanted:
        yield lambda progress: None
        return
    bar = ProgressBar()
    try:
        yield bar
    finally:
        bar.close()

"""Bursts of requests are begun a few at a time, so that whatever else the event loop has to do isn't held up by them.

The routes that answer prompts wait here for their turn. Checking a request and sending it on its way takes some tenths
of a millisecond; hundreds that arrive at once would be done in one go, and `/health` would wait for them all.
"""

from __future__ import annotations

import asyncio

NUM_AT_ONCE = 32
"""Requests that begin in one turn of the event loop: some 10 ms of work."""


class Turns:
    """Lets so many requests begin in each turn of the event loop, in the order in which they came."""

    def __init__(self, num_at_once: int = NUM_AT_ONCE) -> None:
        self._gate = asyncio.Semaphore(num_at_once)

    async def wait(self) -> None:
        """Wait for a turn; whatever else is ready goes first."""
        async with self._gate:
            await asyncio.sleep(0)

"""When requests come in an open loop: evenly, as a Poisson process, or in bursts; always the same for one seed.

`plan.py` asks for the times. An open loop sends a request at its time whether or not others were answered, as people do
who don't know of each other; a closed loop would slow down together with the server and hide that it is too slow.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
import numpy.typing as npt


class Arrivals(StrEnum):
    """How the gaps between arrivals are distributed."""

    POISSON = "poisson"
    GAMMA = "gamma"
    CONSTANT = "constant"


def arrival_times(
    process: Arrivals, rate: float | None, num_requests: int, *, burstiness: float, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Times of arrival.

    The gaps of `gamma` have the mean of the rate and the shape `burstiness`: below 1 requests come in bursts, 1 is a
    Poisson process, and above 1 they come more evenly; the gaps' standard deviation is their mean over the square root
    of it. The first request comes after no gap, so that a run begins at once.

    Args:
        process: which distribution.
        rate: requests a second; `None`: all at once.
        num_requests: how many.
        burstiness: shape of `gamma`, above 0; the others don't look at it.
        rng: where randomness comes from.

    Returns:
        float64 [num_requests], ascending seconds from 0.

    Source: the request rates of vLLM's `benchmarks/serve.py`, whose `--burstiness` means the same.
    """
    if rate is None or num_requests == 0:
        return np.zeros(num_requests)
    if process is Arrivals.CONSTANT:
        gaps = np.full(num_requests - 1, 1.0 / rate)
    else:
        shape = burstiness if process is Arrivals.GAMMA else 1.0
        gaps = rng.gamma(shape, 1.0 / (rate * shape), size=num_requests - 1)
    return np.concatenate([[0.0], np.cumsum(gaps)])

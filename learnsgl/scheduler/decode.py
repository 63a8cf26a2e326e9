"""Decode: which running requests take one more token in a step.

A request decodes as soon as its whole prompt is submitted. Its next input token may still be on the device: the
executor reads it from its token pool, so the scheduler need not have seen it.
"""

from __future__ import annotations

import numpy as np

from learnsgl.core import Stage
from learnsgl.scheduler.table import Int64Array, ReqTable


def decodable_rows(table: ReqTable) -> Int64Array:
    """Rows that can take one more token now, ascending: int64 [n].

    With `k` tokens scheduled, a row's steps in flight and behind it give output up to position `k`; the token at
    position `limit_len - 1` is the last one, and it is never an input.
    """
    wanted = table.is_in(Stage.DECODE) & (table.scheduled_len + 1 < table.limit_len)
    return np.flatnonzero(wanted)

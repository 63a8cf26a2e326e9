"""Why a request waits in the scheduler's queue, in sentences: its place there, and the reason that was recorded.

`why_words.py` asks for them.
"""

from __future__ import annotations

from learnsgl.core import ReqKey
from learnsgl.replay.history_data import Block, ReqHistory
from learnsgl.replay.why_queue import Queue
from learnsgl.replay.why_text import (
    MAX_NAMED,
    Sentence,
    listed,
    name_of,
    ordinal,
    places_of,
    requests,
    said,
    some,
)


def queued(queue: Queue, req: ReqHistory, ns: int) -> list[Sentence]:
    """Its place in the queue at a moment, and the recorded reason why it waits."""
    ahead = [other for other in queue.waiting(ns) if (other.order or 0) < (req.order or 0)]
    since = some(req.queued)
    if ahead:
        names = requests([other.key for other in ahead])
        where = f"{ordinal(len(ahead) + 1)} in the queue, behind {names}"
    else:
        where = "first in the queue, behind nobody"
    block = queue.block(req, ns)
    if block is not None:
        return [_blocked(queue, req, block), said(where, since), *_since(queue, block, ns)]
    sentences = [said(f"waits: {where}", since)]
    blocks = [(other, found) for other in ahead if (found := queue.block(other, ns)) is not None]
    if blocks:  # one that waits for a prefix is passed over, so those behind it don't wait for that
        first, reason = next((item for item in blocks if item[1].reason != "prefix"), blocks[0])
        sentences.append(_blocked(queue, first, reason, f"{name_of(first.key)} waits"))
    elif not ahead:
        doing, place = queue.scheduler_at(ns)
        sentences.append(said(f"the scheduler hasn't looked at it yet: it {doing}", some(place)))
    return sentences


def _blocked(queue: Queue, req: ReqHistory, block: Block, subject: str = "waits") -> Sentence:
    """The recorded reason why a request waits, with its numbers."""
    step = queue.step(block.step)
    places = (block.place, *(places_of(step, "schedule") if step else ()))
    if block.reason == "pages":
        holders = queue.promised(block)
        names = [f"{holder.num_promised:,} to {name_of(holder.key)}" for holder in holders]
        promised = f", {block.promised:,} of these promised ({listed(names)})" if block.promised else ""
        numbers = f"{block.needed:,} pages needed, {block.free:,} free, {block.evictable:,} evictable{promised}"
        return said(f"{subject}: {numbers}", (*places, *(holder.admitted for holder in holders[:MAX_NAMED])))
    if block.reason == "rows":
        held = queue.rows_at(block)
        by = requests([holder.key for holder in held])
        return said(f"{subject}: all {len(held)} table rows are held, by {by}", places)
    if block.reason == "budget":
        chunks = [] if step is None else [(key, run) for key, run in zip(step.keys, step.runs, strict=True)]
        names = [f"{run.num_tokens:,} to {name_of(key)}" for key, run in chunks if run.is_prefill]
        given = f": its prompt tokens went {listed(names)}" if names else ""
        return said(f"{subject}: no token budget was left in step {block.step}{given}", places)
    if block.reason == "prefix" and block.other_uid is not None:
        is_sibling = block.other_uid == req.key.uid
        other = "another of its choices" if is_sibling else name_of(ReqKey(block.other_uid))
        return said(f"{subject}: {other} computes a prefix that both share", places)
    if block.reason == "policy":
        return said(f"{subject}: the policy gave step {block.step} to answers that had waited", places)
    return said(f"{subject}: the policy lets it wait ({block.reason})", places)


def _since(queue: Queue, block: Block, ns: int) -> list[Sentence]:
    """What has changed since the reason was recorded; the same reason isn't recorded twice in a row."""
    last = queue.last_step(ns)
    if last is None or last.number <= block.step:
        return []
    then = f"until step {last.number} no other was recorded; {last.num_free_pages:,} pages were free then"
    return [said(f"that was in step {block.step}, and {then}", places_of(last, "schedule"))]

"""Which request of one recording is which of another: the first question of a comparison.

Prompts can't be compared, since a recording holds no text and keys its digests anew. So requests are matched by what
was asked (length of the prompt, most tokens of the answer) and, among equals, by their order of arrival.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import NamedTuple

from learnsgl.core import ReqKey
from learnsgl.replay.history_data import History, ReqHistory


class Asked(NamedTuple):
    """What a request asked for.

    Attributes:
        prompt_len: tokens of its prompt; `None` where the recording doesn't hold it.
        max_new_tokens: most tokens of its answer; `None` where it never reached the queue.
    """

    prompt_len: int | None
    max_new_tokens: int | None

    def __str__(self) -> str:
        prompt = "a prompt of unknown length" if self.prompt_len is None else f"{self.prompt_len:,} prompt tokens"
        answer = "" if self.max_new_tokens is None else f" and at most {self.max_new_tokens:,} new ones"
        return prompt + answer


class Pair(NamedTuple):
    """The same request in both recordings."""

    a: ReqHistory
    b: ReqHistory


@dataclass(frozen=True)
class Match:
    """Two recordings, request by request.

    Attributes:
        pairs: the same requests, in the order in which they came in the first recording.
        only_a, only_b: requests without a counterpart.
        first_swap: place (from 0) of the first request that came in another order; `None` where the order is the same.
    """

    pairs: tuple[Pair, ...]
    only_a: tuple[ReqHistory, ...]
    only_b: tuple[ReqHistory, ...]
    first_swap: int | None

    @property
    def is_same_workload(self) -> bool:
        """Whether every request has its counterpart."""
        return not self.only_a and not self.only_b

    def differences(self) -> list[str]:
        """What differs between the two workloads, in words."""
        found = []
        for name, reqs in (("A", self.only_a), ("B", self.only_b)):
            for asked, count in sorted(Counter(map(asked_by, reqs)).items(), key=str)[:5]:
                found.append(f"only in {name}: {count:,} with {asked}")
            if len(set(map(asked_by, reqs))) > 5:
                found.append(f"only in {name}: more of other lengths, {len(reqs):,} in all")
        if self.first_swap is not None:
            found.append(f"requests came in another order, from the {self.first_swap + 1}. on")
        return found


def asked_by(req: ReqHistory) -> Asked:
    """What a request asked for."""
    is_known = req.limit_len is not None and req.prompt_len is not None
    return Asked(req.prompt_len, (req.limit_len or 0) - (req.prompt_len or 0) if is_known else None)


def match_requests(a: History, b: History) -> Match:
    """Match the requests of two recordings."""
    of_a, of_b = _in_order(a), _in_order(b)
    waiting: dict[Asked, list[tuple[int, ReqHistory]]] = defaultdict(list)
    for place, req in enumerate(of_b):
        waiting[asked_by(req)].append((place, req))
    pairs, only_a, order = [], [], []
    for req in of_a:
        equals = waiting[asked_by(req)]
        if equals:
            place, other = equals.pop(0)
            pairs.append(Pair(req, other))
            order.append(place)
        else:
            only_a.append(req)
    only_b = sorted((item for items in waiting.values() for item in items), key=lambda item: item[0])
    swaps = [
        place
        for place, (index, sorted_index) in enumerate(zip(order, sorted(order), strict=True))
        if index != sorted_index
    ]
    return Match(tuple(pairs), tuple(only_a), tuple(req for _, req in only_b), swaps[0] if swaps else None)


def _in_order(history: History) -> list[ReqHistory]:
    """Requests in the order in which the scheduler queued them; those that it never queued by their arrival."""
    found: list[ReqHistory] = []
    for journey in history.journeys.values():
        found += [journey.choices[choice] for choice in sorted(journey.choices)] or [ReqHistory(ReqKey(journey.uid))]
    return sorted(found, key=lambda req: (req.order is None, req.order or 0))  # stable: else as they came

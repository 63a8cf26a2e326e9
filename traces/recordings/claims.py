"""What a recording is: its workload, its options, and the claims that it must bear out.

`catalogue.py` and `pairs.py` list the recordings in these terms; `record.py` makes and checks them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from recordings.facts import Facts
from recordings.workloads import Round


@dataclass(frozen=True)
class Claim:
    """One sentence of the table in README.md.

    Attributes:
        text: the sentence; `{f.name}` is a figure of the recording's `Facts`, `{o.name}` one of its partner's.
        holds: whether it is true, given the facts of the recording and of its partner (its own where it has none).
    """

    text: str
    holds: Callable[[Facts, Facts], bool]


@dataclass(frozen=True)
class Recording:
    """One recording.

    Attributes:
        rounds: the requests.
        claims: what readers are to notice. A recording that doesn't bear them out is not kept.
        options: options of `learnsgl serve`, beside the port, the model and the folder.
        partner: the recording of the same workload that it is to be compared with.
        kills: the process that is killed while answers are under way.
        with_text: whether prompts and answers stay in the packed file.
    """

    rounds: tuple[Round, ...]
    claims: tuple[Claim, ...]
    options: tuple[str, ...] = ()
    partner: str | None = None
    kills: str | None = None
    with_text: bool = False

    def notice(self, facts: Facts, others: Facts) -> str:
        """What to notice, for the table."""
        return " ".join(claim.text.format(f=facts, o=others) for claim in self.claims)


def all_answered(facts: Facts) -> bool:
    """Whether every client got a whole answer."""
    return bool(facts.lives) and all(life.status == 200 and life.reason in ("stop", "length") for life in facts.lives)


def same_work(facts: Facts, others: Facts) -> bool:
    """Whether two recordings hold the same prompts, all of them answered."""
    return facts.prompts == others.prompts and all_answered(facts) and all_answered(others)

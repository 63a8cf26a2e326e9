"""The recordings: the server's options, the workload, and what each must show.

Each sentence of a recording's row in README.md is a `Claim`, whose figures are read from the recording itself. A
recording that doesn't show what it is for is not kept: `record.py` fails, and so do the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from recordings import workloads as work
from recordings.facts import Facts
from recordings.workloads import Round


@dataclass(frozen=True)
class Claim:
    """One sentence of the table.

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
        claims: what readers are to notice.
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


def _all_answered(facts: Facts) -> bool:
    return all(life.status == 200 for life in facts.lives)


RECORDINGS = {
    "first_request": Recording(
        work.ONE_QUESTION,
        (
            Claim(
                "One request from end to end: start-up, the whole prompt of {f.prompts[0]} tokens "
                "in one step, then one decode step for each further token of the answer of {f.answers[0]}.",
                lambda f, o: len(f.lives) == 1 and len(f.chunk_steps) == 1 and f.largest_batch == 1,
            ),
            Claim(
                "One step more was submitted before the end of the answer was known, and its token thrown away.",
                lambda f, o: f.num_wasted == 1 and len(f.steps) == f.answers[0] + 1,
            ),
        ),
    ),
    "chat_concurrent": Recording(
        work.CHATS,
        (
            Claim(
                "Eight streamed chats, prompts of {f.prompts[0]} to {f.longest_prompt} tokens, "
                "answers of {f.answers[0]} to {f.longest_answer}.",
                lambda f, o: len(f.lives) == 8 and all(life.streamed for life in f.lives) and _all_answered(f),
            ),
            Claim(
                "Continuous batching: {f.num_joined} of them joined while the answers of others were under way, and up "
                "to {f.largest_batch} were decoded in one step.",
                lambda f, o: f.num_joined >= 6 and f.largest_batch >= 5,
            ),
            Claim(
                "Three open with the same system prompt: the first computed it, the others took {f.num_cached_tokens} "
                "tokens from the cache.",
                lambda f, o: sorted(life.cached_tokens or 0 for life in f.lives)[-2] > 50,
            ),
        ),
        ("--num-pages", "2048"),
    ),
    "long_prompts": Recording(
        work.LONG_AND_SHORT,
        (
            Claim(
                "Prompts of {f.long_prompts[0]} to {f.longest_prompt:,} tokens among short ones, "
                "cut into chunks of at most {f.largest_chunk} tokens; the longest took {f.most_chunks} steps.",
                lambda f, o: len(f.long_prompts) == 4 and f.largest_chunk == 256,
            ),
            Claim(
                "Prefill first: no step holds both a chunk and an answer's token, so answers stand still while prompts "
                "are computed, up to {f.longest_gap_ms:,.0f} ms between two tokens.",
                lambda f, o: not f.mixed_steps and f.num_joined > 0,
            ),
        ),
        ("--num-pages", "8192", "--max-prefill-length", "256"),
        partner="mixed_policy",
    ),
    "mixed_policy": Recording(
        work.LONG_AND_SHORT,
        (
            Claim(
                "The workload of `long_prompts`: {f.num_mixed_steps} of {f.num_chunk_steps} steps "
                "with a chunk carry tokens of answers too, and the chunk is shorter by as many.",
                lambda f, o: (
                    f.num_mixed_steps > f.num_chunk_steps / 2 and f.prompts == o.prompts and f.largest_chunk <= 256
                ),
            ),
            Claim(
                "The longest time between two tokens of an answer was {f.longest_gap_ms:,.0f} ms, beside "
                "{o.longest_gap_ms:,.0f} ms there.",
                lambda f, o: f.largest_batch > 1,
            ),
        ),
        ("--num-pages", "8192", "--max-prefill-length", "256", "--policy", "mixed"),
        partner="long_prompts",
    ),
    "shared_prefix": Recording(
        work.SHARED_PREFIXES,
        (
            Claim(
                "Rounds of requests that share a system prompt, a log, or all but the end of a question: "
                "{f.num_cached_tokens:,} of {f.num_prompt_tokens:,} prompt tokens came from the cache.",
                lambda f, o: len({life.cached_tokens for life in f.lives}) >= 4,
            ),
            Claim(
                "The radix tree grew by {f.kinds[cache.inserted]} nodes, {f.kinds[cache.split]} "
                "times one was split, and with only {f.num_pages} pages {f.num_evicted_pages:,} "
                lambda f, o: (
                    f.kinds["cache.split"] >= 3 and f.num_evicted_pages > 100
                ),
            ),
            Claim(
                "In the first round the second request waits for the prefix that the first is computing (`prefix`).",
                lambda f, o: f.blocked["prefix"] >= 1 and (f.lives[1].cached_tokens or 0) > 100,
            ),
        ),
        ("--num-pages", "640", "--max-prefill-length", "128"),
    ),
}

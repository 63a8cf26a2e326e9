"""The list of all recordings: the server's options, the workload, and what each must show.

The figures in the texts are read from the recordings themselves when README.md is written.
"""

from __future__ import annotations

from recordings import workloads as work
from recordings.claims import Claim, Recording, all_answered, same_work
from recordings.pairs import PAIRS

FIRST_REQUEST = Recording(
    work.ONE_QUESTION,
    (
        Claim(
            "One request from end to end: start-up, the whole prompt of {f.longest_prompt} tokens in one step, then "
            "one decode step for each further token of the answer of {f.longest_answer}.",
            lambda f, o: len(f.lives) == 1 and f.steps.num_with_chunk == 1 and f.steps.largest_batch == 1,
        ),
        Claim(
            "One more step was submitted before the end of the answer was known, and its token was thrown away.",
            lambda f, o: f.steps.num_wasted == 1 and f.steps.num == f.longest_answer + 1,
        ),
    ),
)

CHAT_CONCURRENT = Recording(
    work.CHATS,
    (
        Claim(
            "Eight streamed chats, prompts of {f.prompts[0]} to {f.longest_prompt} tokens, answers of {f.answers[0]} "
            "to {f.longest_answer}.",
            lambda f, o: len(f.lives) == 8 and all(life.streamed for life in f.lives) and all_answered(f),
        ),
        Claim(
            "Continuous batching: {f.num_joined} of them joined while answers of others were under way, and up to "
            "{f.steps.largest_batch} were decoded in one step.",
            lambda f, o: f.num_joined >= 6 and f.steps.largest_batch >= 5,
        ),
        Claim(
            "Three open with the same system prompt, which the first of them computed: the two others took it from "
            "the cache, {f.most_cached} tokens each.",
            lambda f, o: (
                sorted(life.cached_tokens or 0 for life in f.lives)[-2:] == [f.most_cached] * 2 and f.most_cached > 50
            ),
        ),
    ),
    ("--num-pages", "2048"),
)

LONG_PROMPTS = Recording(
    work.LONG_AND_SHORT,
    (
        Claim(
            "Prompts of {f.long_prompts[0]} to {f.longest_prompt:,} tokens among short ones, cut into chunks of at "
            "most {f.steps.largest} tokens a step; the longest took {f.steps.most_chunks} steps.",
            lambda f, o: len(f.long_prompts) == 4 and f.steps.largest == 256 and all_answered(f),
        ),
        Claim(
            "Prefill first: no step holds both a chunk and an answer's token, so answers stand still while prompts "
            "are computed, for {f.longest_gap_ms:,.0f} ms at the most.",
            lambda f, o: f.steps.num_mixed == 0 and f.num_joined > 0,
        ),
        Claim(
            "Requests wait because a step is full (`budget`).",
            lambda f, o: f.blocked["budget"] > 0,
        ),
    ),
    ("--num-pages", "8192", "--max-prefill-length", "256"),
    partner="mixed_policy",
)

MIXED_POLICY = Recording(
    work.LONG_AND_SHORT,
    (
        Claim(
            "The workload of `long_prompts`: {f.steps.num_mixed} of the {f.steps.num_with_chunk} steps with a chunk "
            "carry tokens of answers too, and no step has more than {f.steps.largest} tokens.",
            lambda f, o: same_work(f, o) and f.steps.num_mixed > f.steps.num_with_chunk / 2 and f.steps.largest == 256,
        ),
        Claim(
            "The longest time between two tokens of an answer was {f.longest_gap_ms:,.0f} ms, beside "
            "{o.longest_gap_ms:,.0f} ms there.",
            lambda f, o: f.longest_gap_ms < o.longest_gap_ms,
        ),
    ),
    ("--num-pages", "8192", "--max-prefill-length", "256", "--policy", "mixed"),
    partner="long_prompts",
)

SHARED_PREFIX = Recording(
    work.SHARED_PREFIXES,
    (
        Claim(
            "Rounds of requests that share a system prompt, a log, or all but the end of a question: "
            "{f.num_cached_tokens:,} of {f.num_prompt_tokens:,} prompt tokens came from the cache.",
            lambda f, o: all_answered(f) and len({life.cached_tokens for life in f.lives}) >= 4,
        ),
        Claim(
            "The radix tree grew by {f.kinds[cache.inserted]} nodes and {f.kinds[cache.split]} were split. There are "
            "only {f.num_pages} pages, so {f.num_evicted_pages:,} were evicted, those of the least recently used "
            "leaves first.",
            lambda f, o: f.kinds["cache.split"] >= 3 and f.num_evicted_pages > f.num_pages,
        ),
        Claim(
            "Locks keep what running requests use ({f.kinds[cache.locked]} locks and unlocks); {f.num_hot_evictions} "
            "evictions came while other requests ran.",
            lambda f, o: f.num_hot_evictions >= 1,
        ),
        Claim(
            "In the first round the second request waits for the prefix that the first one computes (`prefix`), and "
            "then takes {f.lives[1].cached_tokens} tokens from the cache.",
            lambda f, o: (f.lives[1].key.uid, f.lives[0].key.uid) in f.prefix_waits,
        ),
    ),
    ("--num-pages", "640", "--max-prefill-length", "128"),
)

OVERLAP_ON = Recording(
    work.ENDING_EARLY,
    (
        Claim(
            "{f.steps.largest_batch} answers decoded together; {f.steps.num_ahead} of {f.steps.num} steps were "
            "submitted before the tokens of the step ahead of them were there.",
            lambda f, o: same_work(f, o) and f.steps.largest_batch == 8 and f.steps.num_ahead > f.steps.num / 2,
        ),
        Claim(
            "The device waits {f.steps.idle_ms:.2f} ms between two steps in the median (without overlap "
            "{o.steps.idle_ms:.2f} ms); the price is {f.steps.num_wasted} tokens for answers that had ended.",
            lambda f, o: f.steps.num_wasted > 0 and f.steps.idle_ms < o.steps.idle_ms,
        ),
    ),
    ("--num-pages", "2048", "--overlap"),
    partner="overlap_off",
)

OVERLAP_OFF = Recording(
    work.ENDING_EARLY,
    (
        Claim(
            "The workload of `overlap_on`, and no step is submitted before the one ahead of it was taken over.",
            lambda f, o: same_work(f, o) and f.steps.num_ahead == 0,
        ),
        Claim(
            "The device waits {f.steps.idle_ms:.2f} ms between two steps in the median, while the scheduler works; no "
            "token is computed in vain.",
            lambda f, o: f.steps.num_wasted == 0 and f.steps.idle_ms > o.steps.idle_ms,
        ),
    ),
    ("--num-pages", "2048", "--no-overlap"),
    partner="overlap_on",
)

WORKER_KILLED = Recording(
    work.EIGHT_AT_ONCE,
    (
        Claim(
            "The detokenizer is killed (`kill -9`) while eight answers are under way: `process.lost`, exit code "
            "{f.lost[detokenizer]}.",
            lambda f, o: f.lost == {"detokenizer": -9} and f.trace.is_cut("detokenizer"),
        ),
        Claim(
            "Every client gets an error at once (`{f.code}`), each request still has exactly one ending, and the "
            "other processes end in order.",
            lambda f, o: (
                len(f.lives) == 8
                and f.codes.total() == 8
                and not any(f.trace.is_cut(name) for name in f.trace.processes if name != "detokenizer")
            ),
        ),
        Claim(
            "`learnsgl trace verify` proves the rest and notes what is missing ({f.num_notes} notes).",
            lambda f, o: f.num_notes > 0,
        ),
    ),
    ("--num-pages", "2048"),
    kills="detokenizer",
)

ENGINE_START = Recording(
    work.TINY,
    (
        Claim(
            "Start-up: {f.num_phases} parts in {f.num_processes} processes; the longest in a worker is "
            "{f.longest_phase}. No `--num-pages` was given, and `--memory-ratio` made it {f.num_pages:,}.",
            lambda f, o: f.kinds["process.ready"] == 3 and f.trace.manifest["config"]["engine"]["num_pages"] is None,
        ),
        Claim(
            "Then one answer of {f.longest_answer} tokens, to see that it serves.",
            lambda f, o: all_answered(f) and len(f.lives) == 1 and f.longest_answer <= 2,
        ),
    ),
)

TOKENS_LEVEL = Recording(
    work.THREE_QUESTIONS,
    (
        Claim(
            "Recorded at level `tokens`, and packed with its text on purpose: the {f.kinds[tok.text]} prompts with "
            "their token ids (`tok.text`), and the answers step by step (`detok.text`). No other file here holds text.",
            lambda f, o: (
                f.trace.level == "tokens"
                and f.kinds["tok.text"] == len(f.lives) == 3
                and f.num_told_tokens == sum(f.answers)
            ),
        ),
    ),
    ("--num-pages", "2048", "--trace-level", "tokens"),
    with_text=True,
)

RECORDINGS = {
    "first_request": FIRST_REQUEST,
    "chat_concurrent": CHAT_CONCURRENT,
    "long_prompts": LONG_PROMPTS,
    "mixed_policy": MIXED_POLICY,
    "shared_prefix": SHARED_PREFIX,
    "overlap_on": OVERLAP_ON,
    "overlap_off": OVERLAP_OFF,
    "worker_killed": WORKER_KILLED,
    "engine_start": ENGINE_START,
    "tokens_level": TOKENS_LEVEL,
    **PAIRS,
}

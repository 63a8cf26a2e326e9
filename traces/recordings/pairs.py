"""The pairs of lesson 1.6: one workload, recorded twice, with one option changed.

`catalogue.py` adds them to the list. Each pair has the workload that shows its option best, so no two share a file.
"""

from __future__ import annotations

from recordings import workloads as work
from recordings.claims import Claim, Recording, same_work

CHUNK_64 = Recording(
    work.ONE_LONG_AMONG_SHORT,
    (
        Claim(
            "Chunks of at most {f.steps.largest} tokens a step: the prompt of {f.longest_prompt:,} tokens takes "
            "{f.steps.most_chunks} steps, with 512 it takes {o.steps.most_chunks}.",
            lambda f, o: same_work(f, o) and f.steps.largest == 64 and f.steps.most_chunks > 4 * o.steps.most_chunks,
        ),
        Claim(
            "Answers beside it wait less for their next token ({f.longest_gap_ms:,.0f} ms at the most, with 512 "
            "{o.longest_gap_ms:,.0f} ms); its own first token comes after {f.long_ttft_ms:,.0f} ms (with 512 "
            "{o.long_ttft_ms:,.0f} ms).",
            lambda f, o: f.longest_gap_ms < o.longest_gap_ms,
        ),
    ),
    ("--num-pages", "4096", "--policy", "mixed", "--max-prefill-length", "64"),
    partner="pair_chunk_512",
)

CHUNK_512 = Recording(
    work.ONE_LONG_AMONG_SHORT,
    (
        Claim(
            "The same with chunks of at most {f.steps.largest} tokens a step: the prompt of {f.longest_prompt:,} "
            "tokens takes {f.steps.most_chunks} steps.",
            lambda f, o: same_work(f, o) and f.steps.largest == 512 and f.steps.most_chunks <= 4,
        ),
    ),
    ("--num-pages", "4096", "--policy", "mixed", "--max-prefill-length", "512"),
    partner="pair_chunk_64",
)

CACHE_RADIX = Recording(
    work.SAME_LOG,
    (
        Claim(
            "Five questions about one log: {f.num_cached_tokens:,} of {f.num_prompt_tokens:,} prompt tokens came from "
            "the cache, {f.steps.num_prefill_tokens:,} were computed.",
            lambda f, o: same_work(f, o) and f.num_cached_tokens > f.steps.num_prefill_tokens,
        ),
    ),
    ("--num-pages", "4096", "--cache-type", "radix"),
    partner="pair_cache_naive",
)

CACHE_NAIVE = Recording(
    work.SAME_LOG,
    (
        Claim(
            "The same without sharing: all {f.steps.num_prefill_tokens:,} prompt tokens were computed. The median "
            "time to first token is {f.ttft_ms:,.0f} ms, with the radix cache {o.ttft_ms:,.0f} ms.",
            lambda f, o: (
                same_work(f, o)
                and f.num_cached_tokens == 0
                and f.steps.num_prefill_tokens == f.num_prompt_tokens
                and f.ttft_ms > o.ttft_ms
            ),
        ),
    ),
    ("--num-pages", "4096", "--cache-type", "naive"),
    partner="pair_cache_radix",
)

RUNNING_1 = Recording(
    work.EIGHT_AT_ONCE,
    (
        Claim(
            "Eight requests at once, one after the other: the others wait for a row of the table (`rows`). "
            "{f.steps.num} steps in {f.span_s:.1f} s; with eight rows, {o.steps.num} steps in {o.span_s:.1f} s.",
            lambda f, o: (
                same_work(f, o)
                and f.steps.largest_batch == 1
                and f.blocked["rows"] > 0
                and f.steps.num > 4 * o.steps.num
                and f.span_s > o.span_s
            ),
        ),
    ),
    ("--num-pages", "4096", "--max-running-requests", "1"),
    partner="pair_running_8",
)

RUNNING_8 = Recording(
    work.EIGHT_AT_ONCE,
    (
        Claim(
            "The same with eight rows: {f.steps.largest_batch} answers in one step, which takes "
            "{f.steps.decode_ms:.0f} ms in the median; a step of one takes {o.steps.decode_ms:.0f} ms.",
            lambda f, o: same_work(f, o) and f.steps.largest_batch == 8 and not f.blocked["rows"],
        ),
    ),
    ("--num-pages", "4096", "--max-running-requests", "8"),
    partner="pair_running_1",
)

PAGES_SMALL = Recording(
    work.EIGHT_AT_ONCE,
    (
        Claim(
            "Eight requests at once and only {f.num_pages} pages: requests wait for pages (`pages`, "
            "{f.blocked[pages]} times), and at most {f.steps.largest_batch} run at a time.",
            lambda f, o: same_work(f, o) and f.blocked["pages"] > 0 and f.steps.largest_batch < 8,
        ),
        Claim(
            "None is thrown out once it runs, since each was promised its pages; {f.num_evicted_pages} pages of the "
            "cache were evicted for them.",
            lambda f, o: f.num_evicted_pages > 0,
        ),
    ),
    ("--num-pages", "256"),
    partner="pair_pages_large",
)

PAGES_LARGE = Recording(
    work.EIGHT_AT_ONCE,
    (
        Claim(
            "The same with {f.num_pages:,} pages: {f.steps.largest_batch} run at a time, nobody waits for pages, and "
            "nothing is evicted.",
            lambda f, o: (
                same_work(f, o) and f.steps.largest_batch == 8 and not f.blocked["pages"] and f.num_evicted_pages == 0
            ),
        ),
    ),
    ("--num-pages", "4096"),
    partner="pair_pages_small",
)

PAIRS = {
    "pair_chunk_64": CHUNK_64,
    "pair_chunk_512": CHUNK_512,
    "pair_cache_radix": CACHE_RADIX,
    "pair_cache_naive": CACHE_NAIVE,
    "pair_running_1": RUNNING_1,
    "pair_running_8": RUNNING_8,
    "pair_pages_small": PAGES_SMALL,
    "pair_pages_large": PAGES_LARGE,
}

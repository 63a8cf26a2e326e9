"""The tables of `learnsgl bench offline`, made from its raw results alone."""

from __future__ import annotations

from learnsgl.bench.offline import OfflineResults, Round
from learnsgl.bench.stats import Spread, median_interval, spread
from learnsgl.bench.tables import Table, judged, verdict

AIMS = {("learnsgl", 1): 1.3, ("learnsgl", 8): 1.6, ("learnsgl int8", 1): 2.5, ("learnsgl int8", 8): 2.5}
"""Decode rate over transformers', by engine and batch."""
PREFILL_AIM = 1.0
REFERENCE = "transformers"


FLOOR_AIM = 0.6
"""Share of the floor's rate that learnsgl is to reach."""


def offline_tables(results: OfflineResults) -> list[Table]:
    """Rates, rates beside transformers', and the whole beside the least time that it can take."""
    batches = list(dict.fromkeys(round_.batch for round_ in results.rounds))
    tables = [Table("offline", _RATE_HEADS, _rate_rows(results, batches), _note(results))]
    if any(peer.name == REFERENCE for peer in results.peers):
        note = "The median of the rounds' ratios, and its 95% confidence interval; unsure: the aim lies within that."
        tables.append(Table("offline-ratios", _RATIO_HEADS, _ratio_rows(results, batches), note))
    if results.ceilings is not None:
        tables.append(Table("offline-floor", FLOOR_HEADS, _floor_rows(results), _floor_note(results)))
    return tables


_RATE_HEADS = (
    "engine", "weights", "threads", "batch", "prefill, tok/s", "decode, tok/s", "output in all, tok/s",
    "step p50, ms", "same tokens",
)  # fmt: skip
_RATIO_HEADS = ("engine", "batch", "decode over transformers'", "aim", "", "prefill over transformers'", "aim", "")


FLOOR_HEADS = (
    "engine", "version", "weights", "batch", "s", "output, tok/s", "of the floor's rate", "aim", "", "learnsgl over it",
)  # fmt: skip


def _rate_rows(results: OfflineResults, batches: list[int]) -> list[list[str]]:
    rows = []
    for batch in batches:
        for peer in results.peers:
            mine = _rounds(results, peer.name, batch)
            if not mine:  # it failed before
                continue
            tells_steps = any(one.num_decoded_tokens for one in mine)
            num_same, num_requests = sum(one.num_same for one in mine), sum(one.num_requests for one in mine)
            rows.append([
                peer.name, peer.weights, str(peer.num_threads), str(batch),
                spread([one.prefill_rate for one in mine]).text() if tells_steps else "",
                spread([one.decode_rate for one in mine]).text() if tells_steps else "",
                spread([one.output_rate for one in mine]).text(),
                spread([1e3 * one.gap_p50_s for one in mine]).text() if tells_steps else "",
                f"{num_same} of {num_requests}" if results.comparable else "",
            ])  # fmt: skip
    return rows


def _ratio_rows(results: OfflineResults, batches: list[int]) -> list[list[str]]:
    rows = []
    for batch in batches:
        theirs = _rounds(results, REFERENCE, batch)
        for peer in results.peers:
            if peer.name == REFERENCE:
                continue
            mine = _rounds(results, peer.name, batch)
            pairs = list(zip(mine, theirs, strict=False))  # one that failed has fewer
            if not pairs:
                continue
            told = [a.decode_rate / b.decode_rate for a, b in pairs if a.decode_rate and b.decode_rate]
            decode = median_interval(told) if told else None
            prefill = median_interval([a.prefill_rate / b.prefill_rate for a, b in pairs])
            aim = AIMS.get((peer.name, batch))
            prefill_aim = PREFILL_AIM if peer.name == "learnsgl" else None
            rows.append([peer.name, str(batch), *_judged(decode, aim), *_judged(prefill, prefill_aim)])
    return rows


def _floor_rows(results: OfflineResults) -> list[list[str]]:
    rows = []
    for batch, floor in results.floors.items():
        ours = _median_rate(results, "learnsgl", batch)
        rows.append(["the floor", "", "", str(batch), f"{floor.total_s:,.2f}", f"{floor.output_rate:,.0f}"] + 4 * [""])
        for peer in results.peers:
            mine = _rounds(results, peer.name, batch)
            if not mine:
                continue
            took = spread([one.prefill_s + one.decode_s for one in mine])
            share = (_median_rate(results, peer.name, batch) or 0.0) / floor.output_rate
            is_ours = peer.name == "learnsgl"
            aim = [f"{FLOOR_AIM:.0%}", verdict(share, at_least=FLOOR_AIM)] if is_ours else ["", ""]
            over = "" if ours is None or is_ours else f"{ours / (share * floor.output_rate):.2f}"
            rate = spread([one.output_rate for one in mine]).text(0)
            rows.append([
                peer.name, peer.version, peer.weights, str(batch), took.text(2), rate, f"{share:.0%}", *aim, over,
            ])  # fmt: skip
    return rows


def _median_rate(results: OfflineResults, peer: str, batch: int) -> float | None:
    """Generated tokens a second, over the whole; `None` of an engine without figures."""
    rates = [one.output_rate for one in _rounds(results, peer, batch)]
    return spread(rates).median if rates else None


def _floor_note(results: OfflineResults) -> str:
    assert results.ceilings is not None, "asked before"
    return (
        f"{results.ceilings.text()} The floor: the operations of all prompts at that rate, and after them the bytes of "
        "all decode steps at that bandwidth, with all requests of a batch decoding at once: weights once a step, and "
        f"the KV of each context that still decodes.{_missing(results)}"
    )


def _missing(results: OfflineResults) -> str:
    absent = [f" {name} is absent: {reason}." for name, reason in results.absent.items()]
    return "".join([*absent, *(f" {name} failed: {reason}." for name, reason in results.failed.items())])


def _judged(ratio: Spread | None, aim: float | None) -> list[str]:
    if ratio is None:
        return ["", "", ""]
    if aim is None:
        return [ratio.text(2), "", ""]
    return [ratio.text(2), f"{aim:.1f}", judged(ratio, at_least=aim)]


def _rounds(results: OfflineResults, peer: str, batch: int) -> list[Round]:
    return [one for one in results.rounds if one.peer == peer and one.batch == batch]


def _note(results: OfflineResults) -> str:
    told = "Median of the rounds (least to greatest)."
    if results.comparable:
        told += f" Same tokens: requests whose whole answer is {results.peers[0].name}'s."
    return told + _missing(results)

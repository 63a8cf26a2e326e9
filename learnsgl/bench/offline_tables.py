"""The tables of `learnsgl bench offline`, made from its raw results alone."""

from __future__ import annotations

from learnsgl.bench.offline import OfflineResults, Round
from learnsgl.bench.stats import Spread, median_interval, spread
from learnsgl.bench.tables import Table, judged

AIMS = {("learnsgl", 1): 1.3, ("learnsgl", 8): 1.6, ("learnsgl int8", 1): 2.5, ("learnsgl int8", 8): 2.5}
"""Decode rate over transformers', by engine and batch."""
PREFILL_AIM = 1.0
REFERENCE = "transformers"


def offline_tables(results: OfflineResults) -> list[Table]:
    """Rates, and rates beside transformers'."""
    batches = list(dict.fromkeys(round_.batch for round_ in results.rounds))
    tables = [Table("offline", _RATE_HEADS, _rate_rows(results, batches), _note(results))]
    if any(peer.name == REFERENCE for peer in results.peers):
        note = "The median of the rounds' ratios, and its 95% confidence interval; unsure: the aim lies within that."
        tables.append(Table("offline-ratios", _RATIO_HEADS, _ratio_rows(results, batches), note))
    return tables


_RATE_HEADS = (
    "engine", "weights", "threads", "batch", "prefill, tok/s", "decode, tok/s", "output in all, tok/s",
    "step p50, ms", "same tokens",
)  # fmt: skip
_RATIO_HEADS = ("engine", "batch", "decode over transformers'", "aim", "", "prefill over transformers'", "aim", "")


def _rate_rows(results: OfflineResults, batches: list[int]) -> list[list[str]]:
    rows = []
    for batch in batches:
        for peer in results.peers:
            mine = _rounds(results, peer.name, batch)
            num_same, num_requests = sum(one.num_same for one in mine), sum(one.num_requests for one in mine)
            rows.append([
                peer.name, peer.weights, str(peer.num_threads), str(batch),
                spread([one.prefill_rate for one in mine]).text(), spread([one.decode_rate for one in mine]).text(),
                spread([one.output_rate for one in mine]).text(),
                spread([1e3 * one.gap_p50_s for one in mine]).text(), f"{num_same} of {num_requests}",
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
            pairs = list(zip(mine, theirs, strict=True))
            decode = median_interval([a.decode_rate / b.decode_rate for a, b in pairs if b.decode_rate] or [0.0])
            prefill = median_interval([a.prefill_rate / b.prefill_rate for a, b in pairs])
            aim = AIMS.get((peer.name, batch))
            prefill_aim = PREFILL_AIM if peer.name == "learnsgl" else None
            rows.append([peer.name, str(batch), *_judged(decode, aim), *_judged(prefill, prefill_aim)])
    return rows


def _judged(ratio: Spread, aim: float | None) -> list[str]:
    if aim is None:
        return [ratio.text(2), "", ""]
    return [ratio.text(2), f"{aim:.1f}", judged(ratio, at_least=aim)]


def _rounds(results: OfflineResults, peer: str, batch: int) -> list[Round]:
    return [one for one in results.rounds if one.peer == peer and one.batch == batch]


def _note(results: OfflineResults) -> str:
    absent = [f"{name} is absent: {reason}." for name, reason in results.absent.items()]
    first = results.peers[0].name
    told = f"Median of the rounds (least to greatest). Same tokens: requests whose whole answer is {first}'s."
    return " ".join([told, *absent])

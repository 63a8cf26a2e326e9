"""The tables of `learnsgl bench steps`, made from its raw results alone."""

from __future__ import annotations

import statistics

from learnsgl.bench.stats import Spread, quantile
from learnsgl.bench.steps import DEFAULT, DecodeSteps, StepsResults
from learnsgl.bench.tables import Table, verdict

FLOOR_AIMS = {1: 0.5, 8: 0.6, 64: 0.7, 256: 0.7}
"""Share of the floor that a decode step is to reach, by batch."""
IDLE_AIM, IDLE_AIM_BATCH = 0.02, 16
"""Most of a step that the device may wait, from this batch on."""
DECODE_HEADS = (
    "model", "batch", "context, tokens", "must be read, GB", "floor, ms", "device, ms", "floor over device", "aim", "",
    "from step to step, ms", "steps in graphs",
)  # fmt: skip
IDLE_HEADS = (
    "model", "batch", "overlap", "graphs", "device, ms", "idle before a step, µs", "from step to step, ms",
    "idle share", "aim", "",
)  # fmt: skip
PREFILL_HEADS = (
    "model", "tokens", "device, ms", "tokens a second", "linear layers, TFLOP", "attention, TFLOP",
    "linear alone, TFLOP/s", "all, TFLOP/s", "a large product, TFLOP/s", "all over it",
)  # fmt: skip


def steps_tables(results: StepsResults) -> list[Table]:
    """Decode steps beside their floor, the device's waits, and prefill beside a large product."""
    decode_note = (
        f"{results.ceilings.text()} The floor is the time for the weights of a step and the KV of its contexts at that "
        "bandwidth. Times are the device's, of a forward pass and its sampling: medians of the steps, and the range of "
        "the middle eight tenths."
    )
    failed = "".join(f" {name} failed: {reason}." for name, reason in results.failed.items())
    idle_note = (
        "Medians of the steps, and the range of the middle eight tenths. Idle: from the end of a step's sampling to "
        "the beginning of the next forward pass; its share is of the time from step to step, both medians."
    )
    prefill_note = (
        "One prompt in one step, nothing of it cached. Linear layers: 2 operations a weight and token, the output "
        "layer for the last token; attention: 4 x layers x heads x head size x tokens x (tokens + 1) / 2. Linear alone "
        "counts the first sum only, over the whole time."
    )
    return [
        Table("steps-decode", DECODE_HEADS, _decode_rows(results), decode_note + failed),
        Table("steps-idle", IDLE_HEADS, _idle_rows(results), idle_note),
        Table("steps-prefill", PREFILL_HEADS, _prefill_rows(results), prefill_note),
    ]


def _decode_rows(results: StepsResults) -> list[list[str]]:
    rows = []
    for one in results.decodes:
        if one.variant != DEFAULT:
            continue
        times, sizes = one.times, results.sizes[one.model]
        num_bytes = sizes.decode_bytes(round(statistics.median(times.context_tokens)))
        floor_ms = 1e3 * num_bytes / results.ceilings.copy_bytes_per_s
        device = _middle([us / 1e3 for us in times.device_us])
        share, aim = floor_ms / device.median, FLOOR_AIMS.get(one.batch)
        context = statistics.median(times.context_tokens) / one.batch
        rows.append([
            one.model, str(one.batch), f"{context:,.0f}", f"{num_bytes / 1e9:,.3f}", f"{floor_ms:,.3f}",
            device.text(3), f"{share:.0%}", "" if aim is None else f"{aim:.0%}",
            "" if aim is None else verdict(share, at_least=aim),
            _cell([us / 1e3 for us in times.wall_us], 3), f"{times.num_in_graphs} of {len(times.device_us)}",
        ])  # fmt: skip
    return rows


def _idle_rows(results: StepsResults) -> list[list[str]]:
    rows = []
    for one in sorted(results.decodes, key=lambda one: (list(results.sizes).index(one.model), one.batch)):
        share = idle_share(one)
        is_aimed = one.variant == DEFAULT and one.batch >= IDLE_AIM_BATCH and share is not None
        overlap, graphs = (("on" if flag else "off") for flag in (one.variant.overlap, one.times.num_in_graphs))
        rows.append([
            one.model, str(one.batch), overlap, graphs,
            _cell([us / 1e3 for us in one.times.device_us], 3), _cell(one.times.gap_us, 1),
            _cell([us / 1e3 for us in one.times.wall_us], 3), "" if share is None else f"{share:.1%}",
            f"{IDLE_AIM:.0%}" if is_aimed else "",
            verdict(share, at_most=IDLE_AIM) if is_aimed and share is not None else "",
        ])  # fmt: skip
    return rows


def idle_share(one: DecodeSteps) -> float | None:
    """How much of the time from step to step the device waits; `None` where no step followed another."""
    if not one.times.gap_us:
        return None
    return max(0.0, statistics.median(one.times.gap_us)) / statistics.median(one.times.wall_us)


def _prefill_rows(results: StepsResults) -> list[list[str]]:
    rows = []
    for one in results.prefills:
        sizes, product = results.sizes[one.model], results.ceilings.matmul_flops_per_s / 1e12
        took = _middle([us / 1e3 for us in one.device_us])
        linear, attention = sizes.linear_flops(one.num_tokens) / 1e12, sizes.attention_flops(one.num_tokens) / 1e12
        seconds = took.median / 1e3
        rate = (linear + attention) / seconds
        rows.append([
            one.model, f"{one.num_tokens:,}", took.text(2), f"{one.num_tokens / seconds:,.0f}", f"{linear:,.4g}",
            f"{attention:,.4g}", f"{linear / seconds:,.4g}", f"{rate:,.4g}", f"{product:,.4g}", f"{rate / product:.0%}",
        ])  # fmt: skip
    return rows


def _middle(values: list[float]) -> Spread:
    """The median, and the range of the middle eight tenths."""
    return Spread(statistics.median(values), quantile(values, 0.1), quantile(values, 0.9))


def _cell(values: list[float], digits: int) -> str:
    return _middle(values).text(digits) if values else ""

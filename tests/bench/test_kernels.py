"""`learnsgl bench kernels` without a GPU: the error, the tables of made-up results, and its choices."""

from __future__ import annotations

import msgspec
import pytest
import torch

from learnsgl import cli
from learnsgl.bench.command import KERNEL_SHAPES
from learnsgl.bench.kernels_data import SHAPES
from learnsgl.bench.kernels_tables import KernelResults, KernelTimes, Timing, floor_us, kernels_tables

RESULTS = KernelResults(
    gpu="NVIDIA Made-up",
    copy_bytes_per_s=2e12,
    matmul_flops_per_s=5e14,
    cases=[
        KernelTimes("silu-mul", "qwen3-0.6b", "64 tokens", 1_000_000, 0, [Timing("learnsgl", 1.0, 0.9, 1.5)]),
        KernelTimes(
            "prefill-attention", "qwen3-0.6b", "1 x 8,192 tokens", 10_000_000, 50_000_000_000,
            [Timing("learnsgl", 200.0, 190.0, 230.0), Timing("torch, dense SDPA", 125.0, 120.0, 130.0)],
        ),
    ],
)  # fmt: skip


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["bench", "kernels", "--sizes", "few"]) == 3
    assert "learnsgl bench kernels measures a GPU, and PyTorch finds no NVIDIA GPU" in capsys.readouterr().err


def test_an_unknown_shape_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "kernels", "--shapes", "gpt-2"]) == 2
    assert "qwen3-0.6b" in capsys.readouterr().err


def test_the_shapes_that_can_be_chosen_are_there() -> None:
    assert tuple(SHAPES) == KERNEL_SHAPES


def test_the_floor_is_what_takes_longer() -> None:
    assert [floor_us(case, RESULTS) for case in RESULTS.cases] == pytest.approx([0.5, 100.0])


def test_the_tables_of_results() -> None:
    silu, prefill = kernels_tables(msgspec.json.decode(msgspec.json.encode(RESULTS), type=KernelResults))
    assert (silu.name, prefill.name) == ("kernels-silu-mul", "kernels-prefill-attention")
    (row,) = silu.rows
    assert row == ["qwen3-0.6b", "64 tokens", "learnsgl", "1.0 (0.9 to 1.5)", "0.5", "50%", "1,000", ""]
    assert [row[2:] for row in prefill.rows] == [
        ["learnsgl", "200.0 (190.0 to 230.0)", "100.0", "50%", "50", "250.0"],
        ["torch, dense SDPA", "125.0 (120.0 to 130.0)", "100.0", "80%", "80", "400.0"],
    ]
    assert "2.00 TB/s" in silu.note
    assert not prefill.note
    assert all(len(row) == len(table.heads) for table in (silu, prefill) for row in table.rows)

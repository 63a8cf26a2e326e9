"""What travels to the device for a step: everything at once, and the tables that hold it afterwards."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from learnsgl.core import ReqKey, SamplingParams
from learnsgl.engine.row_tables import RowTables
from learnsgl.engine.transfers import Array, HostTransfers
from learnsgl.scheduler.executor import Admission, Step
from tests.engine.driver import GREEDY, int32


class Counting(HostTransfers):
    """Counts copies to the device."""

    def __init__(self) -> None:
        self.num_uploads = 0

    def upload(self, *arrays: Array) -> list[torch.Tensor]:
        self.num_uploads += 1
        return super().upload(*arrays)


def tables(transfers: HostTransfers, **changes: Any) -> RowTables:
    settings: dict[str, Any] = {"num_rows": 4, "max_model_len": 12, "page_size": 2, "vocab_size": 50, "seed": 0}
    return RowTables(**{**settings, **changes}, device=torch.device("cpu"), transfers=transfers)


def step(
    runs: list[tuple[int, int, int]], counts: list[int], pages: list[int], admitted: tuple[Admission, ...] = ()
) -> Step:
    rows, starts, lens = (int32(column) for column in zip(*runs, strict=True))
    return Step(1, admitted, rows, starts, lens, int32([1] * len(runs)), int32(counts), int32(pages), int32([]))


FILTERED = SamplingParams(temperature=0.5, top_p=0.9, top_k=7, seed=3)


def test_a_step_travels_in_one_copy() -> None:
    transfers = Counting()
    made = tables(transfers, samples_on_device=True)
    admitted = (
        Admission(ReqKey(1), 2, int32([5, 6, 7, 8, 9]), FILTERED, int32([3, 1])),
        Admission(ReqKey(2), 0, int32([4]), GREEDY, int32([])),
    )
    first = step([(2, 4, 1), (0, 0, 1)], [1, 1], [6, 0], admitted)
    batch = made.batch(first, made.prepare(first))
    assert transfers.num_uploads == 1
    assert batch.input_ids.tolist() == [9, 4]
    assert made.page_table[2, :3].tolist() == [3, 1, 6]
    sampling = made.sampling_on_device
    temperature, top_k, top_p, _, _, positions = (tensor.tolist() for tensor in sampling.tensors)
    assert (temperature, top_k, positions) == ([0.5, 0.0], [7, 50], [5, 1])
    assert np.allclose(top_p, [0.9, 1.0])
    assert sampling.any_filtered
    made.write_tokens(torch.tensor([11, 12], dtype=torch.int32))
    second = step([(0, 1, 1), (2, 5, 1)], [0, 0], [])
    ids = torch.zeros(2, dtype=torch.int32)
    assert made.batch(second, made.prepare(second), out=ids).input_ids is ids
    assert ids.tolist() == [12, 11]
    assert transfers.num_uploads == 2


def test_where_the_host_samples_no_parameters_travel() -> None:
    made = tables(HostTransfers())
    made.prepare(step([(0, 0, 1)], [1], [2], (Admission(ReqKey(1), 0, int32([4]), FILTERED, int32([])),)))
    assert made.sampling_on_device.tensors == ()


def test_a_step_without_runs_still_writes_what_it_brings() -> None:
    made = tables(HostTransfers())
    none = int32([])
    bare = Step(1, (Admission(ReqKey(1), 1, int32([4, 5]), GREEDY, none),), none, none, none, none, none, none, none)
    made.batch(bare, made.prepare(bare))
    assert made.token_pool[1, :2].tolist() == [4, 5]


def test_the_first_page_is_lent_for_every_position() -> None:
    made = tables(HostTransfers())
    made.page_table.fill_(9)
    made.lend_first_page()
    assert not made.page_table.any()
    made.prepare(step([(3, 11, 1)], [0], []))  # as far as a row goes, and no error
    made.release(int32([0, 1, 2, 3]))
    assert made.num_pages.tolist() == [0] * 4

"""CUDA's streams, made up, with a judge: every operator counts as work of the current stream, and races are errors.

`test_cuda_streams.py` runs the GPU's executor on it, with the model on the CPU. As strict as CUDA: a stream knows only
of the work that it waited for, and memory that a stream beside its own has used is recorded there before it is freed.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Clock = dict[str, int]


class Stream:
    """Work in order. `seen` is the newest work of each stream that is over before this one goes on."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seen: Clock = {}

    def work(self) -> int:
        self.seen[self.name] = self.seen.get(self.name, 0) + 1
        return self.seen[self.name]

    def learn(self, other: Clock) -> None:
        self.seen = {name: max(self.seen.get(name, 0), other.get(name, 0)) for name in {*self.seen, *other}}

    def wait_stream(self, other: Stream) -> None:
        self.learn(other.seen)


class DoneEvent:
    """`torch.cuda.Event`, without timing."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._clock: Clock | None = None

    def record(self, stream: Stream) -> None:
        self._clock = dict(stream.seen)

    def query(self) -> bool:
        return False

    def synchronize(self) -> None:
        assert self._clock is not None, "an event is recorded before it is waited for"
        self._judge.host.learn(self._clock)


@dataclass
class Memory:
    """What was done to a tensor's memory: the newest work of each stream."""

    owner: str
    written: Clock = field(default_factory=dict)
    read: Clock = field(default_factory=dict)
    recorded: set[str] = field(default_factory=set)
    is_pinned: bool = False


class Judge(TorchDispatchMode):
    """Watches all operators.

    Attributes:
        current: the stream that they run on.
        host: what the host has waited for.
        faults: what would be wrong on a GPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.current, self.host = Stream("engine"), Stream("host")
        self.faults: list[str] = []
        self._memory: dict[int, Memory] = {}

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.is_view:
            return func(*args, **kwargs)  # reads nothing
        moment = self.current.work()
        names = [argument.name for argument in func._schema.arguments]
        written = {one.name for one in func._schema.arguments if one.alias_info and one.alias_info.is_write}
        for name, value in [*zip(names, args, strict=False), *kwargs.items()]:
            for leaf in tree_leaves(value):
                if isinstance(leaf, torch.Tensor) and leaf.numel():
                    self._touch(leaf, func, moment, is_write=name in written)
        out = func(*args, **kwargs)
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage()._cdata not in self._memory:
                self._memory_of(leaf).written[self.current.name] = moment
        return out

    def record(self, tensor: torch.Tensor, stream: Stream) -> None:
        """`Tensor.record_stream`."""
        self._memory_of(tensor).recorded.add(stream.name)

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        """The host's memory, whose allocator waits by itself for the copies before it gives it on."""
        self._memory_of(tensor).is_pinned = True
        return tensor

    def assert_arrived(self, tensor: torch.Tensor) -> None:
        """The host may read it now."""
        late = _unseen(self._memory_of(tensor).written, self.host)
        assert not late, f"the host reads what {late} may still write"

    def _touch(self, tensor: torch.Tensor, func: object, moment: int, *, is_write: bool) -> None:
        memory = self._memory_of(tensor)
        late = _unseen(memory.written, self.current) | (_unseen(memory.read, self.current) if is_write else set())
        if late:
            self.faults.append(f"{func} on {self.current.name} doesn't wait for {late}")
        (memory.written if is_write else memory.read)[self.current.name] = moment

    def _memory_of(self, tensor: torch.Tensor) -> Memory:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._memory:
            self._memory[key] = Memory(self.current.name)
            weakref.finalize(storage, self._free, key)
        return self._memory[key]

    def _free(self, key: int) -> None:
        memory = self._memory.pop(key)
        users = {*memory.written, *memory.read} - memory.recorded - {memory.owner}
        if users and not memory.is_pinned:
            self.faults.append(f"memory of {memory.owner} was freed while {users} may use it; nothing is recorded")


def _unseen(clock: Clock, stream: Stream) -> set[str]:
    return {name for name, moment in clock.items() if moment > stream.seen.get(name, 0)}

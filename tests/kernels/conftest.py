"""Where the kernels run: on a GPU if there is one, else under Triton's interpreter.

Triton decides between the two when a kernel is defined, so the interpreter has a process of its own, which
`test_under_the_interpreter.py` starts with TRITON_INTERPRET=1. Without a GPU the other processes collect only what
needs neither.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
NEED_NO_DEVICE = [
    "test_compiles.py", "test_choices.py", "test_no_later_variant.py", "test_under_the_interpreter.py",
]  # fmt: skip

collect_ignore: list[str] = []
if INTERPRETED:
    collect_ignore = NEED_NO_DEVICE
elif not torch.cuda.is_available():
    collect_ignore = sorted({path.name for path in Path(__file__).parent.glob("test_*.py")} - set(NEED_NO_DEVICE))


def pytest_configure(config: pytest.Config) -> None:
    """A GPU takes the logarithm of 0 without a word; numpy, which the interpreter computes with, warns."""
    if INTERPRETED:
        config.addinivalue_line("filterwarnings", "ignore:(divide by zero|invalid value|overflow):RuntimeWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What isn't interpreted and needs a device needs a GPU."""
    folder = Path(__file__).parent
    for item in items:
        if item.path.parent == folder and item.path.name not in NEED_NO_DEVICE and not INTERPRETED:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session")
def device() -> torch.device:
    if not INTERPRETED:
        return torch.device("cuda")
    torch.set_num_threads(1)
    teach_the_interpreter_bfloat16()
    teach_the_interpreter_to_count()
    return torch.device("cpu")


def teach_the_interpreter_bfloat16() -> None:
    """It keeps bfloat16 as integers of 16 bits, and its matrix product multiplies these integers."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    plain = InterpreterBuilder.create_dot

    def widened(handle: TensorHandle) -> TensorHandle:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return TensorHandle((handle.data.astype("uint32") << 16).view("float32"), tl.float32)

    def create_dot(self, a, b, *args, **kwargs):  # type: ignore[no-untyped-def]
        return plain(self, widened(a), widened(b), *args, **kwargs)

    InterpreterBuilder.create_dot = create_dot


def teach_the_interpreter_to_count() -> None:
    """Triton 3.6 makes an integer of an array of one element as numpy 2.4 no longer does; 3.7 does it rightly."""
    from triton.runtime import interpreter

    plain = interpreter._patch_lang_tensor

    def patched(tensor, scope):  # type: ignore[no-untyped-def]
        plain(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patched

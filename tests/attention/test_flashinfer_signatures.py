"""Where the real FlashInfer is installed: it takes every call that the backend makes, and the fake is like it."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import warnings
from types import ModuleType

import pytest

from learnsgl.attention.backend import ForwardBatch
from tests.attention import fake_flashinfer
from tests.attention.steps import STEPS, Pair

PREFILL, DECODE = "BatchPrefillWithPagedKVCacheWrapper", "BatchDecodeWithPagedKVCacheWrapper"

Signatures = dict[tuple[str, str], inspect.Signature]
"""By the names of wrapper and method."""


@pytest.fixture(scope="module")
def real() -> Signatures:
    if importlib.util.find_spec("flashinfer") is None:
        pytest.skip("the package flashinfer-python isn't installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own affair
        return signatures_of(importlib.import_module("flashinfer"))


def signatures_of(package: ModuleType) -> Signatures:
    """What the methods take. From 0.6 on the decode wrapper's `plan` hands on whatever it is given."""
    found = {}
    for name in (PREFILL, DECODE):
        wrapper = getattr(package, name)
        for method in ("__init__", "plan", "run", "reset_workspace_buffer"):
            is_passed_on = method == "plan" and hasattr(wrapper, "_plan_impl")
            found[name, method] = inspect.signature(getattr(wrapper, "_plan_impl" if is_passed_on else method))
    return found


@pytest.mark.usefixtures("fake")
def test_each_call_is_one_that_the_fake_takes() -> None:
    calls = every_call()
    signatures = signatures_of(fake_flashinfer)
    for name, method, args, keywords in calls:
        signatures[name, method].bind(None, *args, **keywords)
    made = {(name, method) for name, method, *_ in calls}
    assert made == set(signatures) - {(PREFILL, "reset_workspace_buffer")}


def test_each_call_is_one_that_the_real_package_takes(real: Signatures, fake: ModuleType) -> None:
    assert sys.modules["flashinfer"] is fake
    for name, method, args, keywords in every_call():
        real[name, method].bind(None, *args, **keywords)


def test_the_fake_takes_what_the_real_package_takes(real: Signatures) -> None:
    for place, signature in signatures_of(fake_flashinfer).items():
        theirs = real[place].parameters
        for parameter in signature.parameters.values():
            assert parameter.name in theirs, place
            if parameter.default not in (inspect.Parameter.empty, 1):
                assert theirs[parameter.name].default == parameter.default, (place, parameter.name)


def every_call() -> list[tuple[str, str, tuple[object, ...], dict[str, object]]]:
    """What the backend calls in steps of every kind."""
    fake_flashinfer.Wrapper.calls.clear()
    pair = Pair(4)
    for runs in STEPS:
        pair.step(runs)
    pair.flashinfer.plan_padded(ForwardBatch.of_no_tokens(pair.device), 2)
    pair.actual(pair.heads(2))
    return list(fake_flashinfer.Wrapper.calls)

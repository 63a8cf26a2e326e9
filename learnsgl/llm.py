"""`LLM`: the offline Python API, which answers prompts in this very process, without HTTP and without other processes.

Notebooks, scripts and `learnsgl generate` use it. It is the server's scheduler, engine, tokenizer and detokenizer,
with the same options. Importing this file loads neither torch nor a model; making an `LLM` does.
"""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from learnsgl.config import BUILT_IN_MODEL, Config, ServerConfig, TraceLevel
from learnsgl.core import SamplingParams
from learnsgl.errors import OptionError, RequestError
from learnsgl.offline.completion import Completion, Progress, TextDelta
from learnsgl.offline.live import Call
from learnsgl.offline.progress import OnProgress, progress_shown
from learnsgl.offline.prompts import Prompt, PromptContent, SamplingArgument, read_prompt, read_prompts, read_sampling
from learnsgl.scheduler.executor import ENGINE_FACTORY, ExecutorInfo

if TYPE_CHECKING:
    from learnsgl.offline.pipeline import Pipeline

__all__ = ["LLM", "Completion", "Progress", "SamplingParams", "TextDelta"]

_log = logging.getLogger(__name__)


class LLM:
    """A model, ready to answer prompts.

        with LLM("smollm2-135m") as llm:
            for completion in llm.generate(["The capital of France is", "2 + 2 ="], SamplingParams(max_tokens=8)):
                print(completion.text)

    Prompts of one call run together, in batches that the scheduler puts together as for clients of the server.
    Without `with`, call `close` when you are done; if you forget it, it is closed with the last reference to it, or at
    the end of this Python.

    Calls work in a notebook, in threads, and beside a running asyncio loop (which they block). Ctrl-C is raised
    between two steps of the engine: what ran is aborted, and the `LLM` stays usable.

    Args:
        model: a built-in model (smollm2-135m, tiny-random), a folder in Hugging Face's layout, a .gguf file, a
            repository id, or a shape with random weights (dummy:qwen3-0.6b), as `learnsgl serve --model` takes it.
        executor_factory: `module:function` that makes the executor; a test names a fake here.
        options: options of `learnsgl serve` by their names in `config.py`, such as `num_threads=2`, `overlap=False` or
            `trace="traces"`; those of the HTTP server have no meaning here and are refused.

    Raises:
        OptionError: no such option, or a value that isn't allowed.
        StartupError: the model can't be found, isn't supported, or doesn't fit.
        FolderError: the trace's folder or the model cache can't be written.
    """

    def __init__(self, model: str = BUILT_IN_MODEL, *, executor_factory: str = ENGINE_FACTORY, **options: Any) -> None:
        from learnsgl.offline.start import start_pipeline

        self.config = _config(model, options)
        self._pipeline = start_pipeline(self.config, executor_factory, progress=True)
        self._finalizer = weakref.finalize(self, _close, self._pipeline, os.getpid())

    # ------------------------------------------------------------ what it is

    @property
    def info(self) -> ExecutorInfo:
        """Name, device, dtype and sizes: `info.model`, `info.max_model_len`, `info.num_pages` and so on."""
        return self._pipeline.info

    @property
    def trace_folder(self) -> Path | None:
        """Folder of this run's recording; `None` where nothing is recorded. It is whole after `close`."""
        return self._pipeline.trace_folder

    @property
    def num_running(self) -> int:
        """Requests that have not ended: those of streams that were begun and not read to their end."""
        return self._pipeline.num_running

    @property
    def closed(self) -> bool:
        """Whether it takes no more prompts."""
        return not self._finalizer.alive

    def __repr__(self) -> str:
        return f"<LLM {self.info.model} on {self.info.device}{', closed' if self.closed else ''}>"

    # ------------------------------------------------------------ prompts in, answers out

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingArgument = None,
        *,
        progress: bool | OnProgress = False,
    ) -> list[Completion]:
        """Answer prompts, and wait for all of them.

        A prompt that can't be answered (it is longer than the context, or a message of it is malformed) doesn't stop
        the others: its completion has `finish_reason` error and the reason in `error`, and a line is logged.

        Args:
            prompts: one prompt or several: texts, lists of token ids, or chats (lists of messages with `role` and
                `content`, for which the model's chat template is used).
            sampling_params: for all prompts, or one for each; a dict of fields will do. By default
                `SamplingParams()`, which samples at temperature 1 until the model ends its answer or its context is
                full.
            progress: show a bar on stderr, or call this function after every step.

        Returns:
            A completion for each prompt, in their order; with `n` in the sampling parameters, so many for each.

        Raises:
            RequestError: something given is no prompt, or there isn't one `SamplingParams` for each; nothing has run.
            EngineError: the engine failed; this `LLM` can't be used any more.
            KeyboardInterrupt: Ctrl-C; `generate_each` lets you keep what was finished by then.
        """
        completions = sorted(self.generate_each(prompts, sampling_params, progress=progress), key=_index)
        failed = [completion for completion in completions if completion.error is not None]
        if failed:
            first = failed[0]
            _log.warning(
                "%d of %d prompts could not be answered; the first, prompts[%d]: %s",
                len(failed), len(completions), first.index, first.error,
            )  # fmt: skip
        return completions

    def generate_each(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingArgument = None,
        *,
        progress: bool | OnProgress = False,
    ) -> Iterator[Completion]:
        """Answer prompts, and give each completion as soon as it is there; `completion.index` names its prompt.

        Nothing runs until the first one is asked for. When the iterator is left before its end, what still runs is
        aborted. Arguments and errors are those of `generate`.
        """
        contents = read_prompts(prompts)
        return self._generate_each(contents, read_sampling(sampling_params, len(contents)), progress)

    def _generate_each(
        self, contents: list[PromptContent], params: list[SamplingParams], progress: bool | OnProgress
    ) -> Iterator[Completion]:
        call, start_s, num_finished = Call("LLM.generate"), time.monotonic(), 0
        with self._pipeline.waiting(call), progress_shown(progress) as on_progress:
            for content, sampling in zip(contents, params, strict=True):
                self._pipeline.submit(call, content, sampling, streamed=False)
            while num_finished < len(call.lives):
                self._pipeline.turn()
                num_finished += len(call.ended)
                elapsed_s = time.monotonic() - start_s
                on_progress(Progress(len(call.lives), num_finished, call.num_tokens, elapsed_s))
                while call.ended:
                    yield call.ended.popleft().completion()

    def stream(
        self, prompt: Prompt, sampling_params: SamplingParams | Mapping[str, Any] | None = None
    ) -> Iterator[TextDelta]:
        """Answer one prompt piece by piece.

        Nothing runs until the first delta is asked for, and between two of them only while another call does. When
        the iterator is left before its end, the request is aborted by the next call.

        Args:
            prompt: a text, a list of token ids, or a chat.
            sampling_params: or a dict of its fields; by default `SamplingParams()`.

        Returns:
            Deltas; the last one, and no other, has the whole `completion`.

        Raises:
            RequestError: it is no prompt (at once), or can't be answered (when the first delta is asked for).
            EngineError: the engine failed.
        """
        content = read_prompt(prompt)
        sampling = read_sampling(sampling_params, 1)[0]
        if sampling.n > 1:
            raise RequestError(f"n is {sampling.n}; a stream gives one answer, so leave it out", param="n")
        return self._stream(content, sampling)

    def _stream(self, content: PromptContent, sampling: SamplingParams) -> Iterator[TextDelta]:
        call = Call("LLM.stream")
        with self._pipeline.waiting(call):
            self._pipeline.submit(call, content, sampling, streamed=True)
            live = call.lives[0]
            while not live.has_ended:
                self._pipeline.turn()
                if live.has_news and not live.has_ended:
                    yield TextDelta(*live.take())
            completion = live.completion()
            if completion.error is not None:
                self._pipeline.check_failure()  # it may have been ended by another call, in which the engine failed
            yield TextDelta(*live.take(), completion.raise_for_error())

    # ------------------------------------------------------------ its end

    def close(self) -> None:
        """Abort what still runs, free the model's memory, and end the recording; safe to call twice."""
        self._finalizer()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _close(pipeline: Pipeline, pid: int) -> None:
    if os.getpid() == pid:  # a forked child has neither the engine's thread nor the right to write the recording
        pipeline.close()


def _index(completion: Completion) -> tuple[int, int]:
    return completion.index, completion.choice


def _config(model: str, options: dict[str, Any]) -> Config:
    """The configuration that the arguments of an `LLM` ask for."""
    refused = [f.name for f in fields(ServerConfig) if f.name in options]
    if refused:
        raise OptionError(f"{refused[0]} is an option of the HTTP server, and an LLM has none; leave it out")
    converted = {name: _converted(name, value) for name, value in options.items()}
    return Config().with_values({"model": str(model), **converted})


def _converted(name: str, value: Any) -> Any:
    """Folders and levels may be given as text, as on the command line."""
    if name == "trace" and isinstance(value, str):
        return Path(value)
    if name == "trace_level" and value in set(TraceLevel):
        return TraceLevel(value)
    return value

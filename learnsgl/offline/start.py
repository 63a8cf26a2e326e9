"""Starting the offline API: from the configuration to a pipeline that is ready.

`llm.py` calls `start_pipeline` when an `LLM` is made; the engine, and torch with it, is loaded here and not before.
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict

from learnsgl.config import Config
from learnsgl.hub import resolve_model
from learnsgl.offline.pipeline import Pipeline
from learnsgl.offline.recording import Recording
from learnsgl.scheduler.executor import Executor
from learnsgl.scheduler.grammar import grammars_of_model
from learnsgl.scheduler.worker import ExecutorFactory, record_engine
from learnsgl.server.worker import load_named, record_phase
from learnsgl.tokenizer.tokenize import load_tokenizer


def start_pipeline(config: Config, executor_factory: str, *, progress: bool) -> Pipeline:
    """Find the model, load it, and get every job ready.

    Args:
        config: every option; those of the server have no effect.
        executor_factory: `module:function` that makes the executor.
        progress: tell on stderr what happens, when it takes time.

    Raises:
        UsageError, StartupError: as for `learnsgl serve`; nothing is left open.
    """
    recording = Recording(config)
    with contextlib.ExitStack() as cleanup:
        cleanup.push(lambda kind, error, traceback: recording.close(in_order=False, error=error))
        recorder = recording.recorder
        start_ns = recorder.now()
        model = resolve_model(
            config.engine.model,
            served_name=config.engine.served_model_name,
            dummy_weights=config.engine.dummy_weights,
            progress=progress,
        )
        record_phase(recorder, "resolve_model", start_ns)
        start_ns = recorder.now()
        factory: ExecutorFactory = load_named(executor_factory)
        record_phase(recorder, "import_engine", start_ns)
        executor: Executor = factory(model.folder, model.name, config.engine, config.scheduler)
        cleanup.callback(executor.close)
        info = executor.info.under(config.scheduler)
        record_engine(recorder, info)
        start_ns = recorder.now()
        tokenizer = load_tokenizer(model.folder)
        record_phase(recorder, "load_tokenizer", start_ns)
        recording.tell(engine=asdict(info))
        grammars = grammars_of_model(model.folder, info)
        pipeline = Pipeline(config.scheduler, executor, tokenizer, recording, grammars)
        cleanup.pop_all()
        return pipeline

"""The text workers' processes: the tokenizers, the detokenizer, or both jobs in one process.

`launch.py` starts `run_tokenizer` and `run_detokenizer`, or, with `--num-tokenizer 0`, `run_text_worker`. What each
does with a message is in `tokenizer_worker.py` and `detokenizer_worker.py`.
"""

from __future__ import annotations

from typing import Any, Protocol

from learnsgl.message.codec import API_CHANNEL, DETOKENIZER_CHANNEL, SCHEDULER_CHANNEL, tokenizer_channel
from learnsgl.message.mailbox import Mailbox
from learnsgl.message.types import AbortMsg, DetokenizeMsg, FlushCacheMsg, Message, TextCallMsg, TokenizeMsg
from learnsgl.server.worker import Worker, record_phase
from learnsgl.tokenizer.detokenizer_worker import DetokenizerWorker
from learnsgl.tokenizer.tokenize import Tokenizer, load_tokenizer
from learnsgl.tokenizer.tokenizer_worker import TokenizerWorker
from learnsgl.tokenizer.tool_forms import CallForm


class MessageWorker(Protocol):
    """A job that is done message by message."""

    def process_one_msg(self, message: Any) -> None:
        """Do the work of one message."""
        ...

    def flush(self) -> None:
        """Send what came of the messages since the last call."""
        ...


Jobs = dict[type, MessageWorker]
"""Which job takes a kind of message."""


def run_tokenizer(worker: Worker) -> None:
    """A tokenizer's process, until the parent says stop."""
    mailbox = worker.mailbox(tokenizer_channel(worker.setup.index))
    tokenizer = _load(worker)
    _serve(worker, mailbox, _tokenizer_jobs(worker, tokenizer), tokenizer.call_form)


def run_detokenizer(worker: Worker) -> None:
    """The detokenizer's process, until the parent says stop."""
    mailbox = worker.mailbox(DETOKENIZER_CHANNEL)
    _serve(worker, mailbox, _detokenizer_jobs(worker, _load(worker)))


def run_text_worker(worker: Worker) -> None:
    """The process that does both jobs, until the parent says stop."""
    mailbox = worker.mailbox(tokenizer_channel(0), DETOKENIZER_CHANNEL)
    tokenizer = _load(worker)
    jobs = _tokenizer_jobs(worker, tokenizer) | _detokenizer_jobs(worker, tokenizer)
    _serve(worker, mailbox, jobs, tokenizer.call_form)


def _load(worker: Worker) -> Tokenizer:
    start_ns = worker.recorder.now()
    tokenizer = load_tokenizer(worker.setup.model_folder)
    record_phase(worker.recorder, "load_tokenizer", start_ns)
    return tokenizer


def _tokenizer_jobs(worker: Worker, tokenizer: Tokenizer) -> Jobs:
    job = TokenizerWorker(tokenizer, worker.recorder, worker.sender(SCHEDULER_CHANNEL), worker.sender(API_CHANNEL))
    return dict.fromkeys((TokenizeMsg, AbortMsg, TextCallMsg, FlushCacheMsg), job)


def _detokenizer_jobs(worker: Worker, tokenizer: Tokenizer) -> Jobs:
    job = DetokenizerWorker(tokenizer, worker.recorder, worker.sender(API_CHANNEL), worker.sender(SCHEDULER_CHANNEL))
    return {DetokenizeMsg: job}


def _serve(worker: Worker, mailbox: Mailbox, jobs: Jobs, call_form: CallForm | None = None) -> None:
    """Work until the parent says stop, and then until nothing more arrives."""
    worker.ready(call_form=call_form)
    while not mailbox.stopping:
        _process(mailbox.receive(block=True), jobs)
    while messages := mailbox.receive_last():
        _process(messages, jobs)


def _process(messages: list[Message], jobs: Jobs) -> None:
    for message in messages:
        jobs[type(message)].process_one_msg(message)
    for job in jobs.values():
        job.flush()  # a job that takes two kinds has nothing left the second time

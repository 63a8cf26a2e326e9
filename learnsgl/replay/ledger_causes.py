"""The causes among which the ledger divides a request's time, in the order in which a request meets them.

`ledger.py` names each instant by one of them; figures stack them, and the command line prints them. Each says in which
part of the server it lies, what it means, and between which events it is measured.
"""

from __future__ import annotations

from enum import Enum, StrEnum


class Area(StrEnum):
    """Part of the server; for figures that have no room for every cause."""

    API = "API server"
    TOKENIZER = "tokenizer"
    MESSAGES = "messages"
    QUEUE = "queue"
    SCHEDULER = "scheduler"
    OTHERS = "other requests"
    DEVICE = "device"
    DETOKENIZER = "detokenizer"
    UNKNOWN = "not explained"


class Cause(Enum):
    """Why time passed.

    Attributes:
        label: two or three words, for a legend or a table.
        area: in which part of the server.
        meaning: one sentence.
        source: the events between which it is measured.
    """

    HTTP = (
        "HTTP in", Area.API, "the API server reads the request and sends it to a tokenizer",
        "http.received to msg.sent of the TokenizeMsg",
    )  # fmt: skip
    TOKENIZER_MESSAGE = (
        "message to tokenizer", Area.MESSAGES, "the request is on its way to a tokenizer that is free",
        "msg.sent to msg.received of the TokenizeMsg, less what the tokenizer did for others",
    )  # fmt: skip
    TOKENIZER_WAIT = (
        "tokenizer busy", Area.TOKENIZER, "the tokenizer does other requests first",
        "msg.sent of the TokenizeMsg to tok.tokenized of its own, and from there to msg.sent of the UserMsg, while "
        "other tok.tokenized events say that it worked",
    )  # fmt: skip
    TOKENIZE = (
        "tokenize", Area.TOKENIZER, "the prompt becomes tokens, and these are sent",
        "tok.tokenized from its start_ns to msg.sent of the UserMsg",
    )  # fmt: skip
    SCHEDULER_MESSAGE = (
        "message to scheduler", Area.MESSAGES, "the tokens are on their way to the scheduler",
        "msg.sent to msg.received of the UserMsg, less what lies in scheduler busy",
    )  # fmt: skip
    SCHEDULER_BUSY = (
        "scheduler busy", Area.SCHEDULER, "the message lies in the socket until the scheduler's loop comes round",
        "msg.sent of the UserMsg to req.queued, while sched.*, batch.* say that the loop was in a turn",
    )  # fmt: skip
    WAY_IN = (
        "way in", Area.MESSAGES, "HTTP, tokenizer and messages together: this level of recording doesn't part them",
        "http.received to req.queued, where the level is steps",
    )  # fmt: skip
    QUEUE_TURN = (
        "queue: not looked at", Area.QUEUE, "the scheduler hasn't scheduled since the request came",
        "req.queued to the start_ns of the next sched.step",
    )  # fmt: skip
    QUEUE_BEHIND = (
        "queue: behind others", Area.QUEUE, "first come, first served: those before it have not been admitted yet",
        "from there to its first sched.blocked, or to the start_ns of the sched.step that admits it",
    )  # fmt: skip
    QUEUE_BUDGET = (
        "queue: token budget", Area.QUEUE, "the step's prompt tokens (--max-prefill-length) were given to others",
        "sched.blocked with reason budget, until the next one or its admission",
    )  # fmt: skip
    QUEUE_PAGES = (
        "queue: KV pages", Area.QUEUE, "not enough pages were free, evictable and promised to nobody",
        "sched.blocked with reason pages, until the next one or its admission",
    )  # fmt: skip
    QUEUE_ROWS = (
        "queue: table rows", Area.QUEUE, "as many requests ran as may run at once (--max-running-requests)",
        "sched.blocked with reason rows, until the next one or its admission",
    )  # fmt: skip
    QUEUE_POLICY = (
        "queue: policy", Area.QUEUE, "the policy gave the step to answers that had waited (--max-decode-wait-steps)",
        "sched.blocked with reason policy, or one of a policy's own, until the next one or its admission",
    )  # fmt: skip
    QUEUE_PREFIX = (
        "queue: shared prefix", Area.QUEUE, "another request was computing a prefix that both share",
        "sched.blocked with reason prefix, until the next one or its admission",
    )  # fmt: skip
    SCHEDULE = (
        "scheduling exposed", Area.SCHEDULER, "the device had nothing to do, since the step wasn't submitted yet",
        "the end of one engine.forward to batch.submitted of the next, while sched.*, batch.* say what the scheduler "
        "did; and its own admission",
    )  # fmt: skip
    LAUNCH = (
        "launch", Area.DEVICE, "the step was submitted, and the device began with it",
        "start_ns of batch.submitted to forward_start_ns of engine.forward, with an idle device",
    )  # fmt: skip
    OTHERS_PREFILL = (
        "others' prefill", Area.OTHERS, "the device worked on prompts of other requests, in a step without this one",
        "engine.forward of a sched.step that has chunks of prompts, and not this request",
    )  # fmt: skip
    OTHERS_DECODE = (
        "others' decode", Area.OTHERS, "the device decoded for other requests, in a step without this one",
        "engine.forward of a sched.step that only decodes, and not this request",
    )  # fmt: skip
    PREFILL = (
        "prefill", Area.DEVICE, "the forward pass over a chunk of its own prompt, and no other's",
        "forward_start_ns to forward_end_ns of engine.forward",
    )  # fmt: skip
    PREFILL_SHARED = (
        "prefill beside others'", Area.DEVICE, "the forward pass over its own chunk and chunks of other prompts",
        "forward_start_ns to forward_end_ns of engine.forward",
    )  # fmt: skip
    DECODE = (
        "decode", Area.DEVICE, "the forward pass over its last token, in a step that only decodes",
        "forward_start_ns to forward_end_ns of engine.forward",
    )  # fmt: skip
    DECODE_BESIDE_PREFILL = (
        "decode beside prefill", Area.DEVICE, "the forward pass over its last token and chunks of others' prompts",
        "forward_start_ns to forward_end_ns of engine.forward",
    )  # fmt: skip
    MASKS = (
        "masks", Area.SCHEDULER, "the device had its logits, and waited for the masks of constrained requests",
        "forward_end_ns to sample_start_ns of engine.forward, in a step with batch.masked",
    )  # fmt: skip
    SAMPLE = (
        "sampling", Area.DEVICE, "the token is chosen",
        "forward_end_ns (with masks, sample_start_ns) to sample_end_ns of engine.forward",
    )  # fmt: skip
    COLLECT = (
        "collect", Area.SCHEDULER, "the device is done, and the scheduler takes the result when it gets to it",
        "sample_end_ns of engine.forward to start_ns of sched.committed",
    )  # fmt: skip
    COMMIT = (
        "commit and reply", Area.SCHEDULER, "the scheduler takes the tokens over, ends requests, and sends its reply",
        "start_ns of sched.committed to msg.sent of the DetokenizeMsg",
    )  # fmt: skip
    DETOKENIZER_MESSAGE = (
        "message to detokenizer", Area.MESSAGES, "the tokens are on their way to the detokenizer",
        "msg.sent to msg.received of the DetokenizeMsg",
    )  # fmt: skip
    DETOKENIZER_WAIT = (
        "detokenizer busy", Area.DETOKENIZER, "the detokenizer does other steps first",
        "msg.sent of the DetokenizeMsg to start_ns of detok.decoded, while other detok.decoded events say that it "
        "worked",
    )  # fmt: skip
    DETOKENIZE = (
        "detokenize", Area.DETOKENIZER, "tokens become text, and the text is sent",
        "detok.decoded from its start_ns to msg.sent of the UserReply",
    )  # fmt: skip
    API_MESSAGE = (
        "message to API", Area.MESSAGES, "the text is on its way to the API server",
        "msg.sent to msg.received of the UserReply",
    )  # fmt: skip
    SSE = (
        "HTTP out", Area.API, "the API server writes the text, and hands it to the socket",
        "msg.received of the UserReply to sent_ns of http.streamed, or to http.answered",
    )  # fmt: skip
    WAY_OUT = (
        "way out", Area.MESSAGES, "detokenizer, messages and HTTP together: this level of recording doesn't part them",
        "sched.committed or req.finished to http.answered, where the level is steps",
    )  # fmt: skip
    PROCESS_LOST = (
        "process lost", Area.UNKNOWN, "a process that it needed had died",
        "process.lost, from the last event of that process",
    )  # fmt: skip
    UNEXPLAINED = (
        "unexplained", Area.UNKNOWN, "no event says what happened", "what the events above leave",
    )  # fmt: skip

    def __init__(self, label: str, area: Area, meaning: str, source: str) -> None:
        self.label = label
        self.area = area
        self.meaning = meaning
        self.source = source

    def __repr__(self) -> str:
        return f"Cause.{self.name}"


QUEUE_CAUSES = {
    "budget": Cause.QUEUE_BUDGET,
    "pages": Cause.QUEUE_PAGES,
    "rows": Cause.QUEUE_ROWS,
    "policy": Cause.QUEUE_POLICY,
    "prefix": Cause.QUEUE_PREFIX,
}
"""The cause of each reason that `sched.blocked` can give."""


def queue_cause(reason: str) -> Cause:
    """The cause of a reason of `sched.blocked`; one that isn't known here is some policy's own."""
    return QUEUE_CAUSES.get(reason, Cause.QUEUE_POLICY)

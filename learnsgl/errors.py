"""Every error that learnsgl raises on purpose. A message says what was given, what is allowed and what to do.

LearnsglError
├── UsageError                 exit code 2: the command line asks for something impossible
│   ├── OptionError            a value out of range, an unknown choice, options that contradict each other
│   └── FolderError            a folder that can't be read or written
├── StartupError               exit code 3: the server or a tool can't start
│   ├── PortInUseError         a port that another process holds
│   ├── ModelNotFoundError     neither a built-in model, nor a folder, nor a file, nor a known repository
│   ├── UnsupportedModelError  an architecture, dtype or file format that isn't in the registry
│   ├── DownloadError          the model's file couldn't be fetched; what arrived is kept and resumed
│   ├── HashMismatchError      a file isn't what its pinned SHA-256 says
│   └── OutOfMemoryError       weights, or the pages of a single request, don't fit
├── RequestError               what one client sent; it becomes an HTTP status and an OpenAI-shaped body
│   └── ContextLengthError     the prompt is longer than the context (400, context_length_exceeded)
├── ServingError               exit code 4: the server broke while it ran
│   ├── WorkerLostError        a child process died
│   ├── EngineError            a forward pass or the sampling failed
│   └── MessageError           a message that can't be decoded, is of an unknown kind, or is too large
└── TraceError                 exit code 5: a trace that can't be read or doesn't verify
    ├── TraceFormatError       not a trace, or a frame that is broken where it may not be
    └── TraceViolation         the trace contradicts itself; the message names the first event that does
"""

from __future__ import annotations


class LearnsglError(Exception):
    """Root of the tree. `exit_code` is what a command ends with when this error reaches it."""

    exit_code = 1


class UsageError(LearnsglError):
    """The command line asks for something impossible."""

    exit_code = 2


class OptionError(UsageError):
    """An option's value is out of range, is not one of its choices, or contradicts another option."""


class FolderError(UsageError):
    """A folder can't be read or written."""


class StartupError(LearnsglError):
    """The server or a tool can't start."""

    exit_code = 3


class PortInUseError(StartupError):
    """Another process holds a port."""


class ModelNotFoundError(StartupError):
    """The model's name is neither built in, nor a folder, a file or a repository on disk."""


class UnsupportedModelError(StartupError):
    """The architecture, dtype or file format isn't supported."""


class DownloadError(StartupError):
    """A download ended early; what arrived is kept, and the next try goes on from there."""


class HashMismatchError(StartupError):
    """A file isn't what its pinned SHA-256 says."""


class OutOfMemoryError(StartupError):
    """The weights, or the KV pages of one single request, don't fit into memory."""


class RequestError(LearnsglError):
    """What one client sent can't be served.

    Attributes:
        status: the HTTP status.
        code: OpenAI's machine-readable code, such as `invalid_value`.
        param: the field at fault, if one is.
    """

    def __init__(
        self, message: str, *, status: int = 400, code: str = "invalid_value", param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param


class ContextLengthError(RequestError):
    """The prompt leaves no room for a single token in the context."""

    def __init__(self, num_prompt_tokens: int, max_model_len: int) -> None:
        super().__init__(
            f"the prompt is {num_prompt_tokens} tokens long, and the context holds {max_model_len}, of which at "
            f"least one must be left for the answer; shorten the prompt to {max_model_len - 1} tokens or fewer",
            code="context_length_exceeded",
            param="messages",
        )


class ServingError(LearnsglError):
    """The server broke while it ran."""

    exit_code = 4


class WorkerLostError(ServingError):
    """A child process died."""


class EngineError(ServingError):
    """A forward pass or the sampling failed."""


class MessageError(ServingError):
    """A message can't be decoded, is of an unknown kind, or is too large."""


class TraceError(LearnsglError):
    """A trace can't be read or doesn't verify."""

    exit_code = 5


class TraceFormatError(TraceError):
    """Not a trace, or a frame that is broken where it may not be."""


class TraceViolation(TraceError):
    """The trace contradicts itself."""

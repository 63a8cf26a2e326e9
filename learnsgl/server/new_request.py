"""A request as the parsers give it to the hub: checked, and the same whichever route it came by.

`parse.py` and `parse_generate.py` make them, `requests.py` sends them on their way, and `answers.py` looks at what the
client asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from learnsgl.core import SamplingParams
from learnsgl.message.types import ErrorInfo

_PROMPT_PARAMS = ("messages", "prompt")
"""What the tokenizer and the scheduler call the prompt, whichever field it came in."""


@dataclass(frozen=True, slots=True)
class NewPrompt:
    """One prompt, and how to answer it. One of `text`, `input_ids` and `messages` is set.

    Attributes:
        sampling: how to choose tokens.
        text: the prompt as text.
        input_ids: the prompt as token ids.
        messages: a chat.
    """

    sampling: SamplingParams
    text: str | None = None
    input_ids: list[int] | None = None
    messages: list[dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class NewRequest:
    """What one body asks for.

    Attributes:
        prompts: its prompts, at least one. Their answers are numbered prompt by prompt, and within a prompt choice by
            choice.
        stream: whether the answer is a stream of events.
        include_usage: whether a stream ends with the usage.
        prompt_param: the field that holds the prompts, for errors that only the scheduler finds.
        body_bytes: length of the body.
        echo: whether an answer begins with its prompt.
        sampling_path: leads to the sampling parameters, for errors likewise.
    """

    prompts: tuple[NewPrompt, ...]
    stream: bool
    include_usage: bool
    prompt_param: str
    body_bytes: int
    echo: bool = False
    sampling_path: str = ""

    def name_params(self, error: ErrorInfo) -> None:
        """Have an error of the workers name the field as the client does."""
        if error.param in _PROMPT_PARAMS:
            error.param = self.prompt_param
        elif error.param in SamplingParams.__struct_fields__:
            error.param = self.sampling_path + error.param

"""A request as the parsers give it to the hub: checked, and the same whichever route it came by.

`parse.py` and `parse_generate.py` make them, `requests.py` sends them on their way, and `answers.py` looks at what the
client asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from learnsgl.core import SamplingParams
from learnsgl.message.types import ErrorInfo, TemplateMsg, ToolsMsg

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
        without_answer: only the prompt is wanted, with its log-probabilities; the one token that is sampled after it
            isn't part of the answer. The idea is vLLM's, for `max_tokens` 0.
        tools: what the answer may call.
        template: how a chat is rendered, where not as usual.
    """

    sampling: SamplingParams
    text: str | None = None
    input_ids: list[int] | None = None
    messages: list[dict[str, Any]] | None = None
    without_answer: bool = False
    tools: ToolsMsg | None = None
    template: TemplateMsg | None = None


@dataclass(frozen=True, slots=True)
class GenerateOptions:
    """What only SGLang's `/generate` has.

    Attributes:
        is_list: whether the answer is a list, also of one.
        ids: what the client calls its prompts; `None`: the server's own ids.
        starts: from which token on each prompt's log-probabilities are wanted; `None`: not at all.
        with_text: whether tokens stand beside their log-probabilities as text, too.
    """

    is_list: bool
    ids: tuple[str, ...] | None
    starts: tuple[int | None, ...]
    with_text: bool


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
        generate: what only `/generate` has; `None` for the other routes.
        sampling_path: leads to the sampling parameters, for errors likewise.
        grammar_param: the field that holds the grammar, for errors likewise.
    """

    prompts: tuple[NewPrompt, ...]
    stream: bool
    include_usage: bool
    prompt_param: str
    body_bytes: int
    echo: bool = False
    sampling_path: str = ""
    grammar_param: str = "response_format"
    generate: GenerateOptions | None = None

    def name_params(self, error: ErrorInfo) -> None:
        """Have an error of the workers name the field as the client does."""
        if error.param in _PROMPT_PARAMS:
            error.param = self.prompt_param
        elif error.param == "grammar":
            error.param = self.grammar_param
        elif error.param in SamplingParams.__struct_fields__:
            error.param = self.sampling_path + error.param

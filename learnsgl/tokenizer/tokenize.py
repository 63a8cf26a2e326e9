"""A model's tokenizer and chat template, without torch. The tokenizer worker calls it for every prompt.

`transformers.AutoTokenizer` would import torch; the class behind `tokenizer.json` does not, and renders chat templates
in a sandbox just the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer as BackendTokenizer
from transformers import PreTrainedTokenizerFast

from learnsgl.core import ROLES
from learnsgl.errors import ModelNotFoundError, RequestError, UnsupportedModelError
from learnsgl.message.types import TemplateMsg, ToolsMsg
from learnsgl.tokenizer.decoders import ByteDecoder, ByteTable, TokenDecoder, WindowDecoder, is_byte_level
from learnsgl.tokenizer.tool_forms import CALL_BEGIN, CALL_END, MARKS, PYTHON_TAG, CallForm
from learnsgl.tokenizer.tool_grammar import CallTokens
from learnsgl.tokenizer.tool_prompt import AS_USUAL, RENDER_ERRORS, ToolPrompt

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Tokenizer:
    """Text and chats to token ids, and back."""

    def __init__(self, wrapped: PreTrainedTokenizerFast) -> None:
        self._wrapped = wrapped
        self._backend: BackendTokenizer = wrapped.backend_tokenizer
        self._backend.no_truncation()  # some tokenizer.json files carry a training run's limits
        self._backend.no_padding()
        added = self._backend.get_added_tokens_decoder()
        self._special_ids = frozenset(
            index for index, token in added.items() if token.special and token.content not in MARKS
        )
        self._tool_prompt = ToolPrompt(self._render)
        self._byte_table = ByteTable(self._backend, self._special_ids) if is_byte_level(self._backend) else None
        self._token_bytes: dict[int, bytes] = {}
        self._knows_developer = "developer" in str(wrapped.chat_template)

    @property
    def has_chat_template(self) -> bool:
        """Whether `encode_chat` works."""
        return self._wrapped.chat_template is not None

    def encode_text(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a prompt, with the special tokens that the model wants at its beginning.

        A special token that is written out in the text becomes that token.

        Raises:
            RequestError: the text isn't valid Unicode, or gives no token.
        """
        return self._encode(text, add_special_tokens=add_special_tokens, param="prompt")

    @property
    def call_form(self) -> CallForm:
        """In which form this model writes tool calls."""
        return self._tool_prompt.form

    @cached_property
    def call_tokens(self) -> CallTokens:
        """The added tokens that matter to a grammar of tool calls."""
        added = self._backend.get_added_tokens_decoder()
        ids = {token.content: index for index, token in added.items()}
        plain = [index for index, token in sorted(added.items()) if not token.special and token.content not in MARKS]
        return CallTokens(ids.get(CALL_BEGIN), ids.get(CALL_END), ids.get(PYTHON_TAG), tuple(plain))

    def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], tools: ToolsMsg | None = None, template: TemplateMsg | None = None
    ) -> list[int]:
        """Token ids of a chat, rendered with the model's template up to where the assistant's answer begins.

        The template writes every special token itself, so none is added. As in vLLM, a special token that is
        written out in a message becomes that token.

        Args:
            messages: OpenAI's messages: `role`, and `content` as a string or a list of text parts; the assistant's may
                have `tool_calls`.
            tools: what the answer may call.
            template: where the text is to end elsewhere, and what else the template is given.

        Raises:
            RequestError: the messages are malformed, or the model's template has no place for them, or the model
                has no template.
        """
        return self._encode(self.render_chat(messages, tools, template), add_special_tokens=False, param="messages")

    def render_chat(
        self, messages: Sequence[Mapping[str, Any]], tools: ToolsMsg | None = None, template: TemplateMsg | None = None
    ) -> str:
        """The text that `encode_chat` tokenizes.

        Raises:
            RequestError: as in `encode_chat`.
        """
        if not self.has_chat_template:
            raise RequestError(
                "this model has no chat template, so it can't answer chats; send the prompt to /v1/completions",
                code="no_chat_template",
                param="messages",
            )
        if not messages:
            raise RequestError("messages is empty; at least one message is needed", param="messages")
        plain = [self._plain_message(index, message) for index, message in enumerate(messages)]
        try:
            return self._tool_prompt.render(plain, tools, template or AS_USUAL)
        except RENDER_ERRORS as error:
            raise RequestError(
                f"the model's chat template doesn't take these messages: {error}", param="messages"
            ) from error

    def _render(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None, asked: TemplateMsg
    ) -> str:
        """The chat template itself, in transformers' sandbox."""
        if not self.has_chat_template:
            raise ValueError("there is no chat template")
        template: Any = self._wrapped.apply_chat_template  # its annotations know text content only
        values = {} if asked.values is None else msgspec.json.decode(asked.values)
        text = template(
            messages, tools=tools, tokenize=False, add_generation_prompt=asked.add_generation_prompt,
            continue_final_message=asked.continue_final_message, **values,
        )  # fmt: skip
        return str(text)

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The text of a whole sequence of tokens."""
        return self._backend.decode(token_ids, skip_special_tokens=skip_special_tokens)

    def has_token(self, token_id: int) -> bool:
        """Whether there is a token with this id."""
        return self._backend.id_to_token(token_id) is not None

    def token_bytes(self, token_id: int) -> bytes:
        """The text of one token by itself, in UTF-8; a special token as it is written.

        A token may be a part of a character, and then these bytes are too; an id beyond the vocabulary has none.
        """
        known = self._token_bytes.get(token_id)
        if known is None:
            known = self._token_bytes[token_id] = self._look_up(token_id)
        return known

    def _look_up(self, token_id: int) -> bytes:
        token: str | None = self._backend.id_to_token(token_id)
        if token is None:
            return b""
        if token_id in self._special_ids:
            return token.encode()
        if self._byte_table is not None:
            return self._byte_table.bytes_of(token_id)
        if byte := _BYTE_TOKEN.fullmatch(token):  # SentencePiece's way to write a byte
            return bytes.fromhex(byte.group(1))
        return token.replace("\u2581", " ").encode()

    def start_decoding(self) -> TokenDecoder:
        """A decoder for one sequence of tokens that come one by one; special tokens give no text."""
        if self._byte_table is not None:
            return ByteDecoder(self._byte_table)
        return WindowDecoder(self._backend, self._special_ids)

    def _plain_message(self, index: int, message: Mapping[str, Any]) -> dict[str, Any]:
        """A message as templates know it: one string of content, and a role that the template has seen."""
        where = f"messages[{index}]"
        role = message.get("role")
        if role not in ROLES:
            raise RequestError(
                f"{where}.role is {role!r}; it must be one of: {', '.join(ROLES)}", param=f"{where}.role"
            )
        if role == "developer" and not self._knows_developer:
            role = "system"  # OpenAI's newer name for it
        return {**message, "role": role, "content": _plain_content(message.get("content"), role, where)}

    def _encode(self, text: str, *, add_special_tokens: bool, param: str) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RequestError(
                f"{param} holds half of a surrogate pair (\\u{ord(error.object[error.start]):04x} at character "
                f"{error.start}), which isn't text; send both halves, or U+FFFD in its place",
                code="invalid_unicode",
                param=param,
            ) from error
        ids: list[int] = self._backend.encode(text, add_special_tokens=add_special_tokens).ids
        if not ids:
            raise RequestError(f"{param} gives no token; send at least one character", param=param)
        return ids


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load the tokenizer of a model folder (`tokenizer.json`, `tokenizer_config.json`, chat template).

    Raises:
        ModelNotFoundError: the folder holds no `tokenizer.json`.
        UnsupportedModelError: its tokenizer can't be read.
    """
    if not (folder / "tokenizer.json").is_file():
        raise ModelNotFoundError(f"{folder} holds no tokenizer.json; give a model folder in Hugging Face's layout")
    try:
        return Tokenizer(PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True))
    except Exception as error:  # the tokenizers library raises bare Exception for a file that it can't read
        raise UnsupportedModelError(f"the tokenizer in {folder} can't be read: {error}") from error


def _plain_content(content: Any, role: str, where: str) -> str:
    """Content as one string. Text parts are joined by line breaks, as vLLM joins them."""
    if isinstance(content, str):
        return content
    if content is None and role == "assistant":
        return ""  # OpenAI's form of a message that only calls tools
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        given = "missing" if content is None else f"a {type(content).__name__}"
        raise RequestError(
            f"{where}.content is {given}; it must be a string or a list of text parts", param=f"{where}.content"
        )
    texts = []
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        if kind != "text" or not isinstance(part.get("text"), str):
            raise RequestError(
                f'{where}.content[{index}] is of type {kind!r}; only {{"type": "text", "text": "..."}} is supported',
                param=f"{where}.content",
            )
        texts.append(part["text"])
    return "\n".join(texts)

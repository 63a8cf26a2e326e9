"""The prompts of `learnsgl generate`: read, checked to the last line, and refused with the line's number.

`run.py` calls `read_items` before it loads a model. A line of JSON is read by the server's own parser, so fields and
errors are those of its API.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learnsgl.core import SamplingParams
from learnsgl.errors import OptionError, RequestError, UsageError
from learnsgl.offline.prompts import Prompt
from learnsgl.server.new_request import NewPrompt
from learnsgl.server.parse import parse_chat, parse_completion

STDIN = "-"
_JSON_SUFFIXES = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class Item:
    """One prompt to answer.

    Attributes:
        prompt: text, token ids or a chat.
        sampling: how to choose its tokens.
        shown: the prompt in words, for people.
        id: what its line of JSON called it; `None` where it had no name.
    """

    prompt: Prompt
    sampling: SamplingParams
    shown: str
    id: Any = None


def read_items(args: argparse.Namespace) -> list[Item]:
    """The prompts that the command line asks for: its arguments, then those of the file.

    Raises:
        UsageError: there is none; an option is wrong; the file can't be read; a line of it is malformed.
    """
    if args.system is not None and not args.chat:
        raise OptionError("--system is given without --chat; only a chat has a system message, so add --chat")
    sampling = sampling_of(args)
    items = [_plain_item(prompt, args, sampling) for prompt in args.prompts]
    source = args.file
    if source is None and not items and not sys.stdin.isatty():
        source = STDIN
    if source is not None:
        items += _read_file(source, args, sampling)
    if not items:
        where = "as arguments, with --file, or through a pipe" if source is None else f"in {_name(source)}"
        raise UsageError(f"there is no prompt; give at least one {where} (see learnsgl generate --help)")
    return items


def sampling_of(args: argparse.Namespace) -> SamplingParams:
    """The sampling parameters of the command line.

    Raises:
        OptionError: a value is out of its range.
    """
    try:
        return SamplingParams(
            temperature=args.temperature, top_k=args.top_k, top_p=args.top_p, max_tokens=args.max_tokens,
            stop=tuple(args.stop), ignore_eos=args.ignore_eos,
        )  # fmt: skip
    except ValueError as error:
        field, _, rest = str(error).partition(" ")
        raise OptionError(f"--{field.replace('_', '-')} {rest}") from None


def _plain_item(prompt: str, args: argparse.Namespace, sampling: SamplingParams) -> Item:
    return Item(_chat(prompt, args.system) if args.chat else prompt, sampling, prompt)


def _chat(text: str, system: str | None) -> list[dict[str, Any]]:
    ahead = [] if system is None else [{"role": "system", "content": system}]
    return [*ahead, {"role": "user", "content": text}]


def _read_file(source: str, args: argparse.Namespace, sampling: SamplingParams) -> list[Item]:
    lines = [(number, line) for number, line in enumerate(_text_of(source).split("\n"), 1) if line.strip()]
    is_json = args.input == "jsonl"
    if args.input == "auto" and lines:
        is_json = Path(source).suffix in _JSON_SUFFIXES or lines[0][1].lstrip().startswith("{")
    if not is_json:
        return [_plain_item(line.rstrip("\r"), args, sampling) for _, line in lines]
    items = []
    for number, line in lines:
        try:
            items.append(_json_item(line, args, sampling))
        except RequestError as error:
            hint = "; if each line is a prompt as it stands, add --input lines" if args.input == "auto" else ""
            raise UsageError(f"{_name(source)}, line {number}: {error}{hint}; nothing was answered") from None
    return items


def _text_of(source: str) -> str:
    try:
        data = sys.stdin.buffer.read() if source == STDIN else Path(source).read_bytes()
    except OSError as error:
        raise OptionError(f"--file {source} can't be read: {error.strerror}; give a file of prompts, or -") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"{_name(source)}, line {number}: byte 0x{data[error.start]:02x} isn't UTF-8; convert the file to UTF-8"
        ) from None


def _json_item(line: str, args: argparse.Namespace, sampling: SamplingParams) -> Item:
    """One line of JSON.

    Raises:
        RequestError: it isn't an object that asks for one answer.
    """
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"not JSON ({error})") from None
    if not isinstance(fields, dict):
        raise RequestError(f"holds a {type(fields).__name__}; each line must be a JSON object, with prompt or messages")
    if ("prompt" in fields) == ("messages" in fields):
        given = "both" if "prompt" in fields else "neither"
        raise RequestError(f"has {given} of prompt and messages; give exactly one")
    for name in ("stream", "stream_options"):
        if fields.get(name):
            raise RequestError(f"has {name}, and results come whole; leave it out")
    name = fields.pop("id", None)
    if args.chat and isinstance(fields.get("prompt"), str):
        fields["messages"] = _chat(fields.pop("prompt"), args.system)
    asked = _parse(_defaults(sampling) | fields, args.served_model_name or args.model)
    prompt: Any = asked.messages or asked.text or asked.input_ids
    if not prompt:
        raise RequestError("prompt is empty; it needs at least one character or token id")
    return Item(prompt, asked.sampling, _shown(asked), name)


def _parse(fields: dict[str, Any], model: str) -> NewPrompt:
    body = json.dumps({"model": model} | fields).encode()
    request = parse_chat(body, model) if "messages" in fields else parse_completion(body, model)
    if len(request.prompts) > 1:
        raise RequestError(f"prompt holds {len(request.prompts)} prompts; give each a line of its own")
    if request.prompts[0].sampling.n > 1:
        raise RequestError(f"n is {request.prompts[0].sampling.n}; a line has one result, so repeat the line instead")
    if request.prompts[0].tools is not None:
        raise RequestError("has tools, and a result is text; leave tools out, or ask a server (learnsgl serve)")
    if request.prompts[0].template is not None:
        raise RequestError(
            "has add_generation_prompt, continue_final_message or chat_template_kwargs, which only a server takes; "
            "leave it out, or ask one (learnsgl serve)"
        )
    if request.echo:
        raise RequestError("has echo, and the result holds the prompt anyway; leave it out")
    return request.prompts[0]


def _defaults(sampling: SamplingParams) -> dict[str, Any]:
    """The command line's sampling parameters as a request's fields."""
    return {
        "temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens, "stop": list(sampling.stop), "ignore_eos": sampling.ignore_eos,
    }  # fmt: skip


def _shown(request: NewPrompt) -> str:
    if request.text is not None:
        return request.text
    if request.messages is not None:
        last: Mapping[str, Any] = request.messages[-1]
        return str(last.get("content") or "")
    return f"{len(request.input_ids or [])} token ids"


def _name(source: str) -> str:
    return "standard input" if source == STDIN else source

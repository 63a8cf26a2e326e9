"""The command line of a configuration: flags made from the options of `config.py`, and read back into it.

The commands that start a server or an `LLM` call it. What an option is, its default and its help stand in `config.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Collection
from enum import Enum
from pathlib import Path
from typing import Any

from learnsgl.config import Config, TraceLevel
from learnsgl.errors import OptionError
from learnsgl.option_field import check_value, flag_of


def add_options(
    parser: argparse.ArgumentParser, config: Config | None = None, *, areas: Collection[str] | None = None
) -> None:
    """Add the options of areas to a command's parser, one help group an area.

    Args:
        parser: the command's.
        config: where the defaults come from.
        areas: only these get options, and the others keep their defaults; `None`: all do.
    """
    config = config or Config()
    for area in dataclasses.fields(Config):
        factory = area.default_factory
        assert isinstance(factory, type)
        if areas is not None and area.name not in areas:
            parser.set_defaults(**vars(getattr(config, area.name)))
            continue
        group = parser.add_argument_group(area.name, (factory.__doc__ or "").strip())
        for f in dataclasses.fields(factory):
            default = getattr(getattr(config, area.name), f.name)
            shown = default.value if isinstance(default, Enum) else default
            help_text = f.metadata["help"] + ("" if shown is None else f" (default: {shown})")
            if isinstance(default, bool):
                group.add_argument(
                    flag_of(f), dest=f.name, default=default, action=argparse.BooleanOptionalAction, help=help_text
                )
                continue
            group.add_argument(
                flag_of(f), dest=f.name, default=default, type=_converter(f), help=help_text.replace("%", "%%"),
                choices=None, metavar=f.metadata["metavar"] or _metavar(f),
            )  # fmt: skip


def _metavar(f: dataclasses.Field[Any]) -> str:
    if f.metadata["choices"]:
        return "{" + ",".join(f.metadata["choices"]) + "}"
    kind = str(f.type)
    return "N" if "int" in kind else "X" if "float" in kind else f.name.upper()


def _converter(f: dataclasses.Field[Any]) -> Any:
    kind = str(f.type)

    def convert(text: str) -> Any:
        try:
            value: Any = text
            if "int" in kind:
                value = int(text)
            elif "float" in kind:
                value = float(text)
            elif "Path" in kind:
                value = Path(text)
        except ValueError:
            noun = "a whole number" if "int" in kind else "a number"
            raise OptionError(f"{flag_of(f)} is {text!r}; it must be {noun}") from None
        check_value(f, value)
        return TraceLevel(value) if "TraceLevel" in kind else value

    return convert


def config_from_args(args: argparse.Namespace) -> Config:
    """The configuration that a parsed command line asks for."""
    areas: dict[str, Any] = {}
    for area in dataclasses.fields(Config):
        factory = area.default_factory
        assert isinstance(factory, type)
        areas[area.name] = factory(**{f.name: getattr(args, f.name) for f in dataclasses.fields(factory)})
    config = Config(**areas)
    config.check()
    return config

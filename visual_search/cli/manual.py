"""Every command of the command line as data: what the manual pages and the command reference are written from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from visual_search.cli.commands import loaded

_EXAMPLE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class CommandPage:
    """One command: words that call it, usage, help, (name, meaning) of its arguments and options, and examples."""

    path: str
    usage: str
    help: str
    arguments: tuple[tuple[str, str], ...]
    options: tuple[tuple[str, str], ...]
    commands: tuple[tuple[str, str], ...]
    examples: tuple[str, ...]

    @property
    def summary(self) -> str:
        """The first sentence of the help."""
        return self.help.split("\n\n", maxsplit=1)[0].replace("\n", " ")


def pages_of(program: Any, name: str) -> Iterator[CommandPage]:
    """Yield the program itself and then every command, depth first, in the order in which `--help` lists them.

    `program` is the command that Typer makes of an app (`typer.main.get_command`).
    """
    yield from _pages(program, name, None)


def _pages(command: Any, name: str, parent: Any) -> Iterator[CommandPage]:
    command = loaded(command)
    context = command.context_class(command, info_name=name, parent=parent)
    inner = getattr(command, "commands", {})
    yield CommandPage(
        path=context.command_path,
        usage=f"{context.command_path} {' '.join(command.collect_usage_pieces(context))}",
        help=(command.help or "").strip(),
        arguments=_records(command, context, "argument"),
        options=_records(command, context, "option"),
        commands=tuple((one, _first_line(child.help)) for one, child in inner.items()),
        examples=tuple(_EXAMPLE.findall(command.epilog or "")),
    )
    for one, child in inner.items():
        yield from _pages(child, one, context)


def _records(command: Any, context: Any, kind: str) -> tuple[tuple[str, str], ...]:
    found = [one.get_help_record(context) for one in command.get_params(context) if one.param_type_name == kind]
    return tuple((name, re.sub(r" {2,}", " ", meaning)) for name, meaning in filter(None, found))


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n\n", maxsplit=1)[0].replace("\n", " ")

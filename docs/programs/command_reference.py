"""The page of all commands, made from the command tree: what `--help` says, to read in one piece."""

from __future__ import annotations

import typer.main

from visual_search.cli.app import app
from visual_search.cli.manual import CommandPage, pages_of

_INTRODUCTION = """# Commands

Every command with its arguments, options and examples. This page is written by `make references` from `--help`;
do not edit it. `visual-search man ~/.local/share/man/man1` writes the same as manual pages, and
`visual-search --install-completion` lets bash, zsh and fish complete commands and options
([how](getting-started.md#help-and-completion)). Exit codes: [getting started](getting-started.md#exit-codes).
"""


def page() -> str:
    """The whole page."""
    program = typer.main.get_command(app)
    return "\n".join([_INTRODUCTION, *map(_section, pages_of(program, "visual-search"))])


def _section(command: CommandPage) -> str:
    lines = [f"## {command.path}", "", command.help, "", "```text", command.usage, "```", ""]
    lines += _table("argument", command.arguments, command.path)
    lines += _table("option", command.options, command.path)
    lines += _table("command", command.commands, command.path)
    if command.examples:
        lines += ["Examples:", "", *(f"    {example}" for example in command.examples), ""]
    return "\n".join(lines)


def _table(title: str, entries: tuple[tuple[str, str], ...], path: str) -> list[str]:
    shown = [(name, meaning) for name, meaning in entries if name != "--help"]
    if not shown:
        return []
    rows = [f"| {title} | meaning |", "|---|---|"]
    for name, meaning in shown:
        link = (
            f"[`{name}`](#{path.replace(' ', '-')}-{name})"
            if title == "command"
            else f"`{name.replace('|', chr(92) + '|')}`"
        )
        rows.append(f"| {link} | {_cell(meaning)} |")
    return [*rows, ""]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("[", "\\[")

"""The command tree, for tests of what is written about it."""

from __future__ import annotations

from typing import Any

import pytest
import typer.main

from visual_search.cli.app import app
from visual_search.cli.commands import loaded
from visual_search.cli.manual import CommandPage, pages_of


class CommandTree:
    """Every command as a page, and the program's own parser."""

    def __init__(self) -> None:
        self._program: Any = typer.main.get_command(app)
        self.pages: list[CommandPage] = list(pages_of(self._program, "visual-search"))

    def parse(self, words: list[str]) -> None:
        """Read the words as the command line does, without running the command; raises what the user would see."""
        command = self._program
        name = "visual-search"
        while (inner := getattr(command, "commands", {})) and words and not words[0].startswith("-"):
            name, words = words[0], words[1:]
            command = loaded(inner[name])
        if getattr(command, "commands", {}):  # options of the program itself act at once: completion, version
            known = {name for one in command.get_params(command.context_class(command)) for name in one.opts}
            assert set(words) <= known, f"{name} has no {words}"
            return
        # as the shell has it: a folder that exists; and help would be printed instead of reading the rest
        read = ["." if word.startswith("~/") else word for word in words if word != "--help"]
        command.make_context(name, read or ["--"], resilient_parsing="--help" in words)


@pytest.fixture(scope="session")
def command_tree() -> CommandTree:
    return CommandTree()

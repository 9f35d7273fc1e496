"""The commands by name and summary. A command's own module is loaded when it is used, and what it needs with it.

So `--help`, `--version` and completion are instant, and no command waits for the libraries of another.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

MARKUP: Final = "markdown"

# In the order of `--help`; each summary is the first line of the command's own help, which a test holds
_SUMMARIES = {
    "index": "Index a folder or a bucket prefix. Unchanged images are skipped; interrupted, the same command resumes.",
    "submit": "Queue a folder, a bucket prefix or a list of images for the embed workers; returns when all of it "
    "is listed.",
    "search": "Search a collection by what you give of --image, --id and --text; several are mixed.",
    "evaluate": "Measure search quality: each query is an indexed image, left out of its own results.",
    "audit": "Compare a source with the catalog, the vectors and the index. Exit code 1 when anything is unexplained.",
    "status": "Show the catalog, its collections, the last runs, and every process by the work that it gets done.",
    "reindex": "Build a new generation beside the active one, then switch. Searches go on; interrupted, the same "
    "command goes on.",
    "up": "Run the whole system until Ctrl-C: embed workers, aggregator, schedules, query worker, web page and "
    "HTTP API.",
    "settings": "Show every setting with its value here: flag, then VISUAL_SEARCH_* variable, then TOML file, then "
    "default.",
    "demo": "Index real photos, search them, measure the results; then the same by the whole system of processes.",
    "man": "Write the manual pages of all commands into a folder; `man` finds them in `~/.local/share/man/man1`.",
    "images": "List, show and delete indexed images.",
    "failures": "Images that could not be indexed: list them with their reasons, try again.",
    "jobs": "Queued jobs: list, show, watch, cancel, try failed images again.",
    "generations": "Generations of vectors: list, activate, roll back, prune.",
    "keys": "Make keys for the HTTP API.",
    "models": "Prepare models for onnxruntime, and see what is prepared.",
    "backup": "Backups of catalog and uploads: create, check, restore.",
}


class AllCommands(TyperGroup):
    """The program: every command, none of them loaded."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**{**given, "commands": {name: UnloadedCommand(name) for name in _SUMMARIES}})


class UnloadedCommand(TyperCommand):
    """Stands for a command, or a group of commands, until one is used."""

    def __init__(self, name: str) -> None:
        super().__init__(name, help=_SUMMARIES[name], rich_markup_mode=MARKUP)
        self._module = f"visual_search.cli.{name}"

    def load(self) -> Any:
        """The command itself: a TyperCommand or TyperGroup, with its options."""
        module = import_module(self._module)
        home = typer.Typer(rich_markup_mode=MARKUP, callback=_nothing, add_completion=False)
        if hasattr(module, "app"):
            home.add_typer(module.app, name=self.name)
        else:
            home.command(self.name, epilog=module.EXAMPLES)(module.command)
        program: Any = get_command(home)
        return program.commands[self.name]

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Begin with the command: its context is that of the loaded one."""
        return self.load().make_context(info_name, args, parent=parent, **extra)


def loaded(command: Any) -> Any:
    """The command itself, of one that may stand for it."""
    return command.load() if isinstance(command, UnloadedCommand) else command


def _nothing() -> None:
    """Typer makes a group only of what has a callback."""

"""Commands are known by name and summary before they are loaded; what is not used is not loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer.main

from visual_search.cli.app import app
from visual_search.cli.commands import UnloadedCommand, loaded

HEAVY = ("numpy", "PIL", "sqlalchemy", "celery", "faiss", "torch", "transformers", "onnxruntime", "boto3")
PROGRAM = """
import sys
from visual_search.cli.app import main
try:
    main({arguments})
except SystemExit as leaving:
    assert not leaving.code, leaving.code
print("loaded:", *({heavy} & set(sys.modules)), file=sys.stderr)
"""


def commands() -> dict[str, UnloadedCommand]:
    program = typer.main.get_command(app)
    assert isinstance(program, typer.core.TyperGroup)
    return {name: one for name, one in program.commands.items() if isinstance(one, UnloadedCommand)}


@pytest.mark.parametrize("name", commands())
def test_the_summary_is_the_first_line_of_the_commands_own_help(name: str) -> None:
    unloaded = commands()[name]
    command = loaded(unloaded)
    assert command.name == name
    assert command.help.split("\n\n")[0].replace("\n", " ") == unloaded.help
    assert loaded(command) is command


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["settings", "--json"], ["search", "--help"]])
def test_what_is_not_used_is_not_loaded(arguments: list[str]) -> None:
    program = PROGRAM.format(arguments=arguments, heavy=set(HEAVY))
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout
    assert ended.stderr == "loaded:\n"

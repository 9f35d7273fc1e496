"""A user's shell: an empty home that is the working folder, and `visual-search` on the path as pip installs it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from documents import ROOT


class UserShell:
    """Runs scripts in a real shell; `variables` are what the user has exported."""

    def __init__(self, home: Path) -> None:
        self.home = home
        programs = home / ".local" / "bin"
        programs.mkdir(parents=True)
        command = programs / "visual-search"
        command.write_text(f"#!{sys.executable}\nfrom visual_search.cli.app import main\n\nmain()\n")
        command.chmod(0o755)
        mine = {
            name: value for name, value in os.environ.items() if not name.startswith(("VISUAL_SEARCH_", "XDG_CONFIG"))
        }
        path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.variables = {**mine, "HOME": str(home), "ZDOTDIR": str(home), "PATH": path, "PYTHONPATH": str(ROOT)}

    def run(self, script: str, *, shell: str = "bash") -> list[str]:
        """The lines that it prints; the test fails with all of its output when its exit code is not 0."""
        if shutil.which(shell) is None:
            assert shell != "bash" or not os.environ.get("CI"), "CI needs bash"
            pytest.skip(f"{shell} is not installed")
        ended = subprocess.run(
            [shell, "-c", script],
            cwd=self.home, env=self.variables, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, f"{script}: {ended.returncode}\n{ended.stdout}{ended.stderr}"
        return ended.stdout.splitlines()


@pytest.fixture
def user_shell(tmp_path: Path) -> UserShell:
    """A shell in a home of its own."""
    home = tmp_path / "user"
    home.mkdir()
    return UserShell(home)

"""Shell completion, installed by the command and asked by real shells; and the manual pages, read by `man`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Shell = Callable[[str, str], list[str]]
ASK_BASH = """COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
read -r -a registered <<< "$(complete -p visual-search)"
"${{registered[-2]}}" visual-search
printf '%s ' "${{COMPREPLY[@]}}"
"""
# The first call of what Typer installs only loads the function (as the first Tab does), so it is called twice
ASK_ZSH = """words=({line}); CURRENT=$#words; _arguments() {{ print -r -- "$@" }}
$_comps[visual-search]; $_comps[visual-search]"""
ASK_FISH = 'complete -C "{line}"'


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Runs a script in this shell with an empty home and the command on its path; gives the lines that it prints."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    command = bin_folder / "visual-search"
    command.write_text(f"#!{sys.executable}\nfrom visual_search.cli.app import main\n\nmain()\n")  # as pip writes it
    command.chmod(0o755)
    environment = {**os.environ, "HOME": str(tmp_path), "PATH": f"{bin_folder}:{os.environ['PATH']}"}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[2]), "ZDOTDIR": str(tmp_path)}
    environment.pop("XDG_CONFIG_HOME", None)

    def run(name: str, script: str) -> list[str]:
        if shutil.which(name) is None:
            if name == "bash" and os.environ.get("CI"):
                pytest.fail("CI has no bash")
            pytest.skip(f"{name} is not installed")
        ended = subprocess.run(
            [name, "-c", script], env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout.splitlines()

    return run


@pytest.mark.parametrize(
    ("name", "reads_again", "ask"),
    [
        ("bash", ". ~/.bashrc", ASK_BASH),
        ("zsh", ". ~/.zshrc", ASK_ZSH),
        ("fish", "true", ASK_FISH),
    ],
)
def test_completion_is_installed_and_completes_commands_and_options(shell: Shell, name, reads_again, ask):
    assert "completion installed" in " ".join(shell(name, "visual-search --install-completion; true"))
    commands = " ".join(shell(name, f"{reads_again}\n{ask.format(line='visual-search se')}"))
    assert "search" in commands
    assert "settings" in commands
    assert "index" not in commands
    options = " ".join(shell(name, f"{reads_again}\n{ask.format(line='visual-search search --near')}"))
    assert "--near-duplicates" in options


def test_the_script_can_be_shown_instead(shell: Shell):
    shown = shell("bash", "visual-search --show-completion; true")
    assert shown[-1] == "complete -o default -F _visual_search_completion visual-search"


def test_a_manual_page_for_every_command_that_man_reads_without_a_warning(shell: Shell, tmp_path: Path, command_tree):
    shell("bash", "visual-search man ~/pages/man1")
    written = {page.name for page in (tmp_path / "pages" / "man1").iterdir()}
    assert written == {f"{page.path.replace(' ', '-')}.1" for page in command_tree.pages}
    if shutil.which("man") is None:
        pytest.skip("man is not installed")
    shell("bash", "! man --warnings -E UTF-8 -l ~/pages/man1/*.1 2>&1 >/dev/null | grep .")
    text = "\n".join(shell("bash", "MANWIDTH=100 man -E ascii -l ~/pages/man1/visual-search-search.1 | col -b"))
    assert "visual-search search --image query.jpg -k 5" in text
    assert "--near-duplicates <float range>" in text

"""Shell completion, installed by the command and asked by real shells; and the manual pages, read by `man`."""

from __future__ import annotations

import shutil

import pytest
from user_shell import UserShell

ASK_BASH = """COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
read -r -a registered <<< "$(complete -p visual-search)"
"${{registered[-2]}}" visual-search
printf '%s ' "${{COMPREPLY[@]}}"
"""
# The first call of what Typer installs only loads the function (as the first Tab does), so it is called twice
ASK_ZSH = """words=({line}); CURRENT=$#words; _arguments() {{ print -r -- "$@" }}
$_comps[visual-search]; $_comps[visual-search]"""
ASK_FISH = 'complete -C "{line}"'


@pytest.mark.parametrize(
    ("name", "reads_again", "ask"),
    [
        ("bash", ". ~/.bashrc", ASK_BASH),
        ("zsh", ". ~/.zshrc", ASK_ZSH),
        ("fish", "true", ASK_FISH),
    ],
)
def test_completion_is_installed_and_completes_commands_and_options(user_shell: UserShell, name, reads_again, ask):
    assert "completion installed" in " ".join(user_shell.run("visual-search --install-completion; true", shell=name))
    commands = " ".join(user_shell.run(f"{reads_again}\n{ask.format(line='visual-search se')}", shell=name))
    assert "search" in commands
    assert "settings" in commands
    assert "index" not in commands
    options = " ".join(user_shell.run(f"{reads_again}\n{ask.format(line='visual-search search --near')}", shell=name))
    assert "--near-duplicates" in options


def test_the_script_can_be_shown_instead(user_shell: UserShell):
    shown = user_shell.run("visual-search --show-completion; true")
    assert shown[-1] == "complete -o default -F _visual_search_completion visual-search"


def test_a_manual_page_for_every_command_that_man_reads_without_a_warning(user_shell: UserShell, command_tree):
    user_shell.run("visual-search man ~/pages/man1")
    written = {page.name for page in (user_shell.home / "pages" / "man1").iterdir()}
    assert written == {f"{page.path.replace(' ', '-')}.1" for page in command_tree.pages}
    if shutil.which("man") is None:
        pytest.skip("man is not installed")
    user_shell.run("! man --warnings -E UTF-8 -l ~/pages/man1/*.1 2>&1 >/dev/null | grep .")
    text = "\n".join(user_shell.run("MANWIDTH=100 man -E ascii -l ~/pages/man1/visual-search-search.1 | col -b"))
    assert "visual-search search --image query.jpg -k 5" in text
    assert "--near-duplicates <float range>" in text

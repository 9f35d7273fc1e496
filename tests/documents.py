"""The documents of the repository as data for tests: pages, links, headings, command lines, blocks of code."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from itertools import dropwhile
from pathlib import Path

ROOT = Path(__file__).parents[1]


@cache
def pages() -> list[Path]:
    """Every page that is written for readers."""
    at_the_top = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "deploy/README.md"]
    return [*(ROOT / name for name in at_the_top), *sorted((ROOT / "docs").glob("*.md"))]


def links_of(page: Path) -> Iterator[tuple[str, str]]:
    """Each link inside the repository: the file, relative to the page ("" for itself), and the anchor or ""."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        if not re.match(r"[a-z]+:", target):
            file, _, anchor = target.partition("#")
            yield file, anchor


def prose_of(page: Path) -> str:
    """The text without fenced blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


@cache
def anchors_of(page: Path) -> set[str]:
    """The anchors of its headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


_BLOCK = re.compile(
    r"^```(?P<language>\w*)\n(?P<fenced>(?s:.*?))^```$|(?<=\n\n)(?P<indented>(?:    .*\n|\n(?=    ))+)", re.MULTILINE
)


def code_blocks(page: Path, language: str = "") -> list[str]:
    """Fenced blocks of a language; without one, all but `text`, and indented blocks too, in their order."""
    found = []
    for block in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        if block["fenced"] is None:
            found += [] if language else [re.sub(r"^    ", "", block["indented"], flags=re.MULTILINE)]
        elif block["language"] == language or (not language and block["language"] != "text"):
            found.append(block["fenced"])
    return found


def words_of(command: str) -> list[str]:
    """The words of the first program of a command line, as the shell makes them; without variables before it."""
    words = shlex.split(re.sub(r"\$\([^)]*\)", "word", command), comments=True)
    ends = [number for number, word in enumerate(words) if word in ("<", ">", "|", "&", "&&")]
    words = words[: ends[0]] if ends else words
    return list(dropwhile(lambda word: re.match(r"[A-Z_]+=", word), words))


def console_commands(page: Path, language: str = "") -> list[str]:
    """The command lines in its blocks, with lines that go on joined; what a `$` block prints is left out."""
    commands = []
    for block in code_blocks(page, language):
        lines = re.sub(r"\\\n\s*", "", block).splitlines()
        prompted = [line[2:] for line in lines if line.startswith("$ ")]
        commands += prompted or [
            line for line in lines if re.match(r"([A-Z_]+=\S+ )*(visual-search|python|curl|make) ", line)
        ]
    return commands


def console_sessions(page: Path) -> list[tuple[str, str]]:
    """Each command after a `$` in the `console` blocks, its lines joined, and what the page shows of its output."""
    sessions: list[tuple[str, str]] = []
    for line in "\n".join(code_blocks(page, "console")).replace("\\\n", "").splitlines():
        if line.startswith("$ "):
            sessions.append((line[2:], ""))
        else:
            command, output = sessions.pop()
            sessions.append((command, f"{output}{line}\n"))
    return sessions

"""`visual-search man`: writes a manual page for each command, in the form that `man` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from visual_search.cli.manual import CommandPage, pages_of
from visual_search.cli.output import console
from visual_search.version import __version__

EXAMPLES = """
**Examples**

`visual-search man ~/.local/share/man/man1`

`man visual-search-search`
"""

Folder = Annotated[Path, typer.Argument(help="Folder that gets the pages, made if missing.", show_default=False)]


def command(context: typer.Context, folder: Folder) -> None:
    """Write the manual pages of all commands into a folder; `man` finds them in `~/.local/share/man/man1`."""
    pages = list(pages_of(context.find_root().command, "visual-search"))
    folder = folder.expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    names = [page.path.replace(" ", "-") for page in pages]
    for name, page in zip(names, pages, strict=True):
        others = [one for one in names if one != name]
        (folder / f"{name}.1").write_text(manual_page(page, others), encoding="utf-8")
    console().print(f"{len(pages)} pages in {folder}", markup=False)


def manual_page(page: CommandPage, others: list[str]) -> str:
    """The page in the `man` macros of roff; `others` are the pages that it refers to at its end."""
    name = page.path.replace(" ", "-")
    lines = [
        f'.TH "{name.upper()}" 1 "" "visual-search {__version__}" "User Commands"',
        ".SH NAME",
        f"{_plain(name)} \\- {_plain(page.summary)}",
        ".SH SYNOPSIS",
        f".B {_plain(page.usage)}",
        ".SH DESCRIPTION",
        *_paragraphs(page.help),
    ]
    for title, entries in (("ARGUMENTS", page.arguments), ("OPTIONS", page.options), ("COMMANDS", page.commands)):
        if entries:
            lines.append(f".SH {title}")
            for term, meaning in entries:
                lines += [".TP", f"\\fB{_plain(term)}\\fR", _plain(meaning)]
    if page.examples:
        lines.append(".SH EXAMPLES")
        lines += [".nf", *map(_plain, page.examples), ".fi"]
    references = ", ".join(f"\\fB{_plain(one)}\\fR(1)" for one in sorted(others))
    return "\n".join([*lines, ".SH SEE ALSO", references, ""])


def _paragraphs(text: str) -> list[str]:
    return [line for part in text.split("\n\n") for line in (".PP", _plain(part.replace("\n", " ")))][1:]


def _plain(text: str) -> str:
    """Text that roff prints as it is: no escapes, no minus that becomes a dash, no request at the start of a line."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped

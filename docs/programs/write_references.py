"""Writes the pages and tables of the documentation that are made from the program itself, and one file of deploy/.

Usage: python docs/programs/write_references.py [--check]
With `--check` nothing is written, and exit code 1 says that a page is not what it would be. `make references` runs it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import alert_rule
import command_reference
import http_reference
import metrics_reference
import tables

DOCS = Path(__file__).parents[1]


def references() -> Mapping[str, str]:
    """Each page that is made, or holds something that is made: its name and what it should hold."""
    return {
        "cli.md": command_reference.page(),
        "http-reference.md": http_reference.page(),
        "metrics.md": metrics_reference.page(),
        "configuration.md": tables.put_in(_text("configuration.md"), "settings", tables.settings()),
        "../deploy/monitoring/prometheus-rule.yaml": alert_rule.manifest(),
        "errors.md": tables.put_in(_text("errors.md"), "errors", tables.errors()),
    }


def _text(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def stale() -> list[str]:
    """Names of the pages that are not what they should be."""
    return [name for name, text in references().items() if not (DOCS / name).exists() or _text(name) != text]


def main() -> int:
    """Write what is stale, or say it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when a page is stale")
    check = parser.parse_args().check
    changed = stale()
    for name in changed:
        if not check:
            (DOCS / name).write_text(references()[name], encoding="utf-8")
        print(f"docs/{name}: {'stale, run `make references`' if check else 'written'}")
    return int(check and bool(changed))


if __name__ == "__main__":
    sys.exit(main())

"""Puts the tables of the last `make bench` into a page, between its `<!-- bench: STAGE -->` and `<!-- end -->`.

python benchmarks/fill_page.py [PAGE]; by default docs/performance.md. A stage that was not measured stays as it is.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from measuring import RESULTS
from report import stage_markdown

_DEFAULT = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
_PLACE = re.compile(r"<!-- bench: (?P<stage>[a-z-]+) -->\n.*?<!-- end -->", re.DOTALL)


def filled(page: str, results: Path) -> tuple[str, list[str], list[str]]:
    """The page with new tables; which stages they are of, and which were not measured."""
    done: list[str] = []
    absent: list[str] = []

    def tables(place: re.Match[str]) -> str:
        name = place["stage"]
        file = results / f"{name}.json"
        if not file.is_file():
            absent.append(name)
            return place[0]
        done.append(name)
        kept = json.loads(file.read_text(encoding="utf-8"))
        measured = f"{kept['on']}, {kept['date'][:10]}, {kept['given']['repeats']} repeats in turn."
        return "\n\n".join([f"<!-- bench: {name} -->", *stage_markdown(kept), measured, "<!-- end -->"])

    return _PLACE.sub(tables, page), done, absent


def main() -> None:
    """Fill the page, and say which tables are new."""
    page = Path(sys.argv[1]) if len(sys.argv) > 1 else _DEFAULT
    text, done, absent = filled(page.read_text(encoding="utf-8"), RESULTS)
    page.write_text(text, encoding="utf-8")
    print(
        f"{page.name}: {', '.join(done) or 'nothing'} filled in"
        + (f"; no result of {', '.join(absent)}" * bool(absent))
    )


if __name__ == "__main__":
    main()

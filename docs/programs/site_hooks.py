"""What the site does beyond building docs/: pages that stand elsewhere in the repository, and links to files."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
# Pages that GitHub wants elsewhere, under the name that they have in the site
ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "threat-model.md",
    "deploy/README.md": "deployment.md",
}
_PLACES = {name: place for place, name in ELSEWHERE.items()}
_LINK = re.compile(r"\[([^\]]+)\]\((?!\w+:|#)([^)\s]+)\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that stand elsewhere."""
    for place, name in ELSEWHERE.items():
        content = (ROOT / place).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links between pages lead to the pages of the site; what is a file of the repository is named, not linked."""
    folder = posixpath.dirname(_PLACES.get(page.file.src_uri, f"docs/{page.file.src_uri}"))

    def link(found: re.Match[str]) -> str:
        target, _, anchor = found[2].partition("#")
        place = posixpath.normpath(posixpath.join(folder, target))
        name = ELSEWHERE.get(place, place.removeprefix("docs/"))
        if name.endswith(".md"):
            return f"[{found[1]}]({name}{'#' + anchor if anchor else ''})"
        if not (ROOT / place).exists():
            raise ValueError(f"{page.file.src_uri} links to {target}, which is not there")
        if place.startswith("docs/images/"):
            return f"[{found[1]}]({name})"
        return found[1] if found[1].startswith("`") else f"{found[1]} (`{place}`)"

    return _LINK.sub(link, markdown)

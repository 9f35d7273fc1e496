"""Draws the Mermaid diagrams of the pages as SVG while the site is built."""

from __future__ import annotations

from typing import Any

import mermaidx


def drawn(source: str, *_: Any, **__: Any) -> str:
    """The diagram as a figure that is as wide as its column, at most."""
    return f'<figure class="diagram">{mermaidx.render(source).svg()}</figure>'

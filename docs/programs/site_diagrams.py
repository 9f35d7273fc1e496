"""Draws the Mermaid diagrams of the pages as SVG while the site is built."""

from __future__ import annotations

import re
from typing import Any

import mermaidx

_READABLE = 0.55  # of its own size: a wide diagram is scrolled rather than shrunk any further


def drawn(source: str, *_: Any, **__: Any) -> str:
    """The diagram as a figure that fits its column as long as it can be read there."""
    svg = mermaidx.render(source).svg()
    width = float(re.search(r'viewBox="[-\d.]+ [-\d.]+ ([\d.]+) ', svg)[1])
    return f'<figure class="diagram"><div style="min-width: {width * _READABLE:.0f}px">{svg}</div></figure>'

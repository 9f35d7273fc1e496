"""Tables made from classes: the settings, and the errors with their reasons; and how they are put into a page."""

from __future__ import annotations

import re

import pipeline.errors
import query_service.errors
import storage.errors
import workers.errors
from storage.errors import VisualSearchError
from storage.settings import Settings

_ERROR_MODULES = (storage.errors, pipeline.errors, workers.errors, query_service.errors)


def put_in(page: str, name: str, table: str) -> str:
    """The page with this table between its two marks `<!-- name: ... -->` and `<!-- end of name -->`."""
    marks = re.compile(rf"(<!-- {name}: [^>]*-->\n).*?(<!-- end of {name} -->)", re.DOTALL)
    changed, found = marks.subn(lambda mark: mark[1] + "\n" + table + "\n\n" + mark[2], page)
    if found != 1:
        raise ValueError(f"the marks of the table {name!r} stand {found} times in the page")
    return changed


def settings() -> str:
    """Every setting with its variable, key, default and meaning, in the order of the class."""
    rows = ["| variable | TOML key | default | meaning |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "see the meaning" if field.default_factory is not None else f"`{field.default}`"
        rows.append(f"| `VISUAL_SEARCH_{name.upper()}` | `{name}` | {default} | {field.description} |")
    return "\n".join(rows)


def error_classes() -> list[type[VisualSearchError]]:
    """Every error class once, from storage upwards, in the order of the files."""
    found = [
        value
        for module in _ERROR_MODULES
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, VisualSearchError)
    ]
    return list(dict.fromkeys(found))


def errors() -> str:
    """Every reason with its class, whether a retry can help, and who raises it."""
    rows = ["| reason | error | retry helps | meaning |", "|---|---|---|---|"]
    for one in error_classes():
        meaning = " ".join((one.__doc__ or "").split())
        rows.append(f"| `{one.reason}` | `{one.__name__}` | {'yes' if one.retryable else 'no'} | {meaning} |")
    return "\n".join(rows)

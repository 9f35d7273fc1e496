"""What of a request's text may reach SQL: PostgreSQL refuses NUL, and half a surrogate pair is no text."""

from __future__ import annotations

from pipeline.errors import InvalidQuery


def storable(text: str) -> str:
    """The same text. Raises InvalidQuery when no database can hold it, so that nothing can be found with it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidQuery("the text holds half a surrogate pair") from error
    if "\0" in text:
        raise InvalidQuery("the text holds a NUL character")
    return text

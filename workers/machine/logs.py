"""How every role writes its log: lines for people or JSON for machines, both with the ids a line is about.

A line says what it is about by `extra=about(job=3, batch=7)`: JSON has these as fields, text ends with them. Knows
nothing of what is logged; secrets never belong into a message or a field.
"""

from __future__ import annotations

import logging
import os
import socket
from datetime import datetime, timezone
from typing import Literal

from pythonjsonlogger.json import JsonFormatter

CONTEXT_FIELDS = ("job", "batch", "image", "generation", "collection", "request", "reason")

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

LogFormat = Literal["text", "json"]


def about(  # noqa: PLR0913 - one keyword for each field that a line can have
    *,
    job: int | None = None,
    batch: int | None = None,
    image: str | None = None,
    generation: int | None = None,
    collection: str | None = None,
    request: str | None = None,
    reason: str | None = None,
) -> dict[str, object]:
    """What a log line is about, for logging's `extra`; None is left out."""
    given = (job, batch, image, generation, collection, request, reason)
    return {name: value for name, value in zip(CONTEXT_FIELDS, given, strict=True) if value is not None}


def configure_logging(role: str, log_format: LogFormat) -> None:
    """Write the log of this process to standard error in this format, from INFO on; the last call counts."""
    handler = _RoleHandler()
    handler.setFormatter(_JsonLines(role) if log_format == "json" else _TextLines(_TEXT))
    root = logging.getLogger()
    for old in [one for one in root.handlers if isinstance(one, _RoleHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.captureWarnings(capture=True)  # otherwise they stand between the JSON lines


class _RoleHandler(logging.StreamHandler):  # type: ignore[type-arg]  # generic only for type checkers
    """Standard error, told apart from handlers of others."""


class _TextLines(logging.Formatter):
    """`time LEVEL logger: message [job=3 batch=7]`."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        line = super().formatMessage(record)
        given = [f"{name}={record.__dict__[name]}" for name in CONTEXT_FIELDS if name in record.__dict__]
        return f"{line} [{' '.join(given)}]" if given else line


class _JsonLines(JsonFormatter):
    """One object a line: time (UTC), level, logger, message, role, process, and the fields of the line."""

    def __init__(self, role: str) -> None:
        super().__init__(
            "%(levelname)s %(name)s %(message)s",
            rename_fields={"levelname": "level", "name": "logger", "exc_info": "traceback"},
            static_fields={"role": role, "process": f"{socket.gethostname()}:{os.getpid()}"},
            json_ensure_ascii=False,
        )

    def add_fields(
        self, log_data: dict[str, object], record: logging.LogRecord, message_dict: dict[str, object]
    ) -> None:
        moment = datetime.fromtimestamp(record.created, timezone.utc)
        log_data["time"] = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        super().add_fields(log_data, record, message_dict)

"""Column types that mean the same on SQLite and PostgreSQL. Knows no table."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import DateTime, Dialect, LargeBinary, Text
from sqlalchemy.types import TypeDecorator, TypeEngine


class UtcDateTime(TypeDecorator[datetime]):
    """A timezone-aware moment, back in UTC. SQLite knows no times: there it is sortable ISO text.

    SQLAlchemy's own text form would drop the zone.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(Text() if dialect.name == "sqlite" else DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if value.tzinfo is None:
            message = f"{value} has no timezone"
            raise ValueError(message)
        moment = value.astimezone(timezone.utc)
        return moment.isoformat(" ", "microseconds") if dialect.name == "sqlite" else moment

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        return moment.astimezone(timezone.utc)


class Bytes(LargeBinary):
    """Bytes, or anything that lies in memory as bytes do; both drivers take and give them as they are."""

    def bind_processor(self, dialect: Dialect) -> None:
        """Nothing is done to a value: SQLAlchemy's own would wrap each one."""

    def result_processor(self, dialect: Dialect, coltype: Any) -> None:
        """Nothing is done to a value."""


class Sha256(TypeDecorator[str]):
    """A sha256: lower-case hex in Python, 32 bytes in SQL (half the index of text); "" (unknown) is NULL."""

    impl = Bytes(32)
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Callable[[str | None], bytes | None]:  # noqa: ARG002
        """A bare function in place of the two calls for each value of `process_bind_param`."""
        return _sha256_bytes

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> str:  # noqa: ARG002
        return "" if value is None else value.hex()


def _sha256_bytes(value: str | None) -> bytes | None:
    return bytes.fromhex(value) if value else None


# Byte order everywhere, as Python sorts: pages, prefixes and `image_id > x` depend on no server's locale.
PlainText = Text().with_variant(Text(collation="C"), "postgresql")

"""The time that the catalog writes into its rows: this machine's, or the one that all who share the database have."""

from __future__ import annotations

from datetime import datetime, timezone

from sqlalchemy import Connection, func, select


def now() -> datetime:
    """This moment, timezone-aware UTC."""
    return datetime.now(timezone.utc)


def shared_now(connection: Connection) -> datetime:
    """This moment by the database's clock: for times that another machine compares with one of its own.

    On PostgreSQL that is the server's clock. Processes that share a SQLite file are on one machine.
    """
    if connection.dialect.name != "postgresql":
        return now()
    moment: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    return moment.astimezone(timezone.utc)

"""The time that the catalog writes into its rows."""

from __future__ import annotations

from datetime import datetime, timezone


def now() -> datetime:
    """This moment, timezone-aware UTC."""
    return datetime.now(timezone.utc)

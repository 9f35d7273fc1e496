"""Attributes of failures: what a sidecar says of an image that could not be indexed waits for the next try."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column; of old failures no attributes are known."""
    op.add_column("failures", sa.Column("attributes", sa.JSON))

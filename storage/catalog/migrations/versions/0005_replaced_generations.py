"""When a generation was replaced: a rollback goes to the one that was active before, not to the one made last."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from storage.catalog.database.column_types import UtcDateTime

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the column; of switches so far the moment is not known."""
    op.add_column("generations", sa.Column("replaced_at", UtcDateTime))

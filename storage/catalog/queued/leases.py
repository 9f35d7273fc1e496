"""Named leases: who may do what only one process may. The epoch of a lease fences off every earlier holder."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from sqlalchemy import ColumnElement, Connection, select, update

from storage.catalog import tables
from storage.catalog.database.clock import shared_now
from storage.catalog.database.engine import Database
from storage.catalog.database.statements import insert_missing
from storage.catalog.queued.job_records import Lease
from storage.errors import LeaseLost

_LEASES = tables.leases.c
_LONG_AGO = datetime(1970, 1, 1, tzinfo=timezone.utc)  # nobody ever held it


class Leases:
    """Gives out leases. They end by the database's clock, whatever the machines take the time for."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def acquire(self, name: str, holder: str, seconds: float, *, unless_left_to: str | None = None) -> Lease | None:
        """Take the lease for so long, with the next epoch; None while another one holds it.

        A holder may take its own lease again: whatever it did under the old epoch is then fenced off. None also
        when the lease was left to `unless_left_to`, whether or not that has run out.
        """
        with self._database.write() as connection:
            row = {"name": name, "holder": "", "epoch": 0, "expires_at": _LONG_AGO}
            insert_missing(connection, tables.leases, row)
            held = connection.execute(
                select(tables.leases).where(_LEASES.name == name).with_for_update(key_share=True)
            ).one()
            moment = shared_now(connection)  # only now: the lock may have been waited for
            if held.holder == unless_left_to or (held.expires_at > moment and held.holder != holder):
                return None
            lease = Lease(name, holder, held.epoch + 1, seconds)
            values = {"holder": holder, "epoch": lease.epoch, "expires_at": moment + timedelta(seconds=seconds)}
            connection.execute(update(tables.leases).where(_LEASES.name == name).values(values))
        return lease

    def renew(self, lease: Lease) -> bool:
        """Hold on to the lease for another `lease.seconds`; false when somebody else has it by now."""
        with self._database.write() as connection:
            expires_at = shared_now(connection) + timedelta(seconds=lease.seconds)
            statement = update(tables.leases).where(*_still(lease)).values(expires_at=expires_at)
            return connection.execute(statement).rowcount == 1

    def leave_to(self, lease: Lease, holder: str, seconds: float) -> bool:
        """Hold on for so long under another name, and be no holder any more; false when somebody else has it by now.

        The name may be a note to whoever comes next, see `acquire`.
        """
        with self._database.write() as connection:
            expires_at = shared_now(connection) + timedelta(seconds=seconds)
            values = {"holder": holder, "epoch": lease.epoch + 1, "expires_at": expires_at}
            return connection.execute(update(tables.leases).where(*_still(lease)).values(values)).rowcount == 1

    def release(self, lease: Lease) -> bool:
        """Give the lease back, so that the next one need not wait; false when somebody else has it by now."""
        with self._database.write() as connection:
            statement = update(tables.leases).where(*_still(lease)).values(expires_at=shared_now(connection))
            return connection.execute(statement).rowcount == 1


def check_lease(connection: Connection, lease: Lease) -> None:
    """Make sure that the lease cannot change hands before the caller's transaction ends. Raises LeaseLost."""
    statement = select(_LEASES.epoch, _LEASES.holder).where(_LEASES.name == lease.name).with_for_update(key_share=True)
    held = connection.execute(statement).one_or_none()
    if held is None or held.epoch != lease.epoch:
        holder = "nobody" if held is None else f"{held.holder} (epoch {held.epoch})"
        raise LeaseLost(f"the lease '{lease.name}' of {lease.holder} (epoch {lease.epoch}) is now with {holder}")


def _still(lease: Lease) -> tuple[ColumnElement[bool], ...]:
    return (_LEASES.name == lease.name, _LEASES.epoch == lease.epoch)

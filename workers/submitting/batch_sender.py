"""Sends the ids of committed batches to the workers' queue, and notes in SQL that they were sent."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from time import monotonic

from storage.catalog import Catalog
from storage.settings import Settings
from workers.celery_app import make_app, send_batch
from workers.errors import WorkerError
from workers.servers import connect_redis

_PAUSE_SECONDS = 15.0  # before a server that could not be reached is tried again

log = logging.getLogger(__name__)


class BatchSender:
    """Connects at the first batch. What cannot be sent waits in SQL for the sweeper; that is said once in a while."""

    def __init__(self, catalog: Catalog, settings: Settings) -> None:
        self._catalog = catalog
        self._settings = settings
        self._send: Callable[[int, int], None] | None = None
        self._parts = ExitStack()
        self._again_at = 0.0

    def send(self, batch_ids: Sequence[int], priority: int = 0) -> int:
        """Send the batches; return how many were. A batch that is sent twice is worked on once."""
        sent: list[int] = []
        try:
            for batch_id in () if monotonic() < self._again_at else batch_ids:
                self._send = self._send or self._connected()
                self._send(batch_id, priority)
                sent.append(batch_id)
        except WorkerError as error:
            self._again_at = monotonic() + _PAUSE_SECONDS  # else a long listing would wait for each batch anew
            log.warning("the jobs are safe, but no worker can be told of them now; the sweeper will: %s", error)
        finally:
            if sent:
                self._catalog.batches.mark_sent(sent)
        return len(sent)

    def _connected(self) -> Callable[[int, int], None]:
        """What sends, after a look at the server: Celery itself would not mind one that evicts what is queued."""
        connect_redis(self._settings).close()
        app = make_app(self._settings)
        self._parts.callback(app.close)
        return partial(send_batch, app)

    def close(self) -> None:
        """Close the connection, if there is one."""
        self._parts.close()

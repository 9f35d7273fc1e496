"""The Celery tasks: thin shells around functions that know no Celery."""

from __future__ import annotations

import logging

from celery import Celery

from storage.errors import CatalogUnavailable
from workers.celery_app import EMBED_TASK
from workers.embed_batches import BatchEmbedder
from workers.machine.logs import about

_LOG = logging.getLogger(__name__)


def register_embed_task(app: Celery, embedder: BatchEmbedder) -> None:
    """Let this process take calls for batches.

    A call is always acknowledged: what must be done again, the ledger knows, and the sweeper sends it.
    """

    def embed_batch(batch_id: int) -> None:
        try:
            embedder.embed(batch_id)
        except CatalogUnavailable as error:
            _LOG.warning("left to the sweeper: %s", error, extra=about(batch=batch_id))

    app.task(name=EMBED_TASK)(embed_batch)

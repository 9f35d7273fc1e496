"""The Celery app `visual_search`: which queue, which guarantees, and the sending of ids. Importing it opens nothing.

The SQL ledger is the truth about batches; a message is only a call to look there. So a lost message is sent again by
the sweeper, and one delivered twice finds its batch leased or done. There is no result backend.
"""

from __future__ import annotations

import ssl

from celery import Celery
from kombu.exceptions import OperationalError

from storage.settings import Settings
from workers.errors import RedisUnavailable
from workers.servers import redis_errors_translated, redis_url

APP_NAME = "visual_search"
EMBED_QUEUE = "embed"
EMBED_TASK = "visual_search.embed_batch"
HIGHEST_PRIORITY = 9  # 0 goes last

# A killed worker's message comes back after so long at the earliest. The sweeper is far quicker; a shorter time would
# only hand out batches twice that are waiting for a slow model. Seconds.
_VISIBILITY_SECONDS = 3600
_VISIBILITY_LEASES = 10
_RETRY_POLICY = {"max_retries": 2, "interval_start": 0.1, "interval_step": 0.2, "interval_max": 0.5}


def make_app(settings: Settings) -> Celery:
    """The app on the configured Redis, or on the bundled Valkey, which is started if need be.

    Raises BundledServerError. The server itself is reached at the first send; `connect_redis` checks it before.
    """
    url = redis_url(settings)
    app = Celery(APP_NAME, broker=url, set_as_current=False)
    app.conf.update(
        task_default_queue=EMBED_QUEUE,
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,  # attempts are capped in SQL, so a poison batch does not go round for ever
        worker_prefetch_multiplier=1,
        worker_concurrency=1,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        worker_enable_remote_control=False,  # else whoever reaches Redis could shut workers down
        worker_cancel_long_running_tasks_on_connection_loss=False,  # a batch may outlast a restart of Redis
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_use_ssl={"ssl_cert_reqs": ssl.CERT_REQUIRED} if url.startswith("rediss://") else None,  # Kombu: NONE
        broker_transport_options={
            "visibility_timeout": max(_VISIBILITY_SECONDS, _VISIBILITY_LEASES * settings.lease_seconds),
            "priority_steps": list(range(HIGHEST_PRIORITY + 1)),
            "queue_order_strategy": "priority",
            "socket_connect_timeout": 5,
            "socket_timeout": 30,
            "health_check_interval": 25,
        },
    )
    return app


def send_batch(app: Celery, batch_id: int, priority: int = 0) -> None:
    """Call for a worker; call this only after the batch is committed. Raises RedisUnavailable.

    A larger priority goes first; what is below 0 or above 9 counts as 0 and 9.
    """
    # On Redis, Celery's 0 is the first to go
    order = HIGHEST_PRIORITY - min(max(priority, 0), HIGHEST_PRIORITY)
    try:
        with redis_errors_translated():
            app.send_task(EMBED_TASK, args=[batch_id], queue=EMBED_QUEUE, priority=order, retry_policy=_RETRY_POLICY)
    except OperationalError as error:
        raise RedisUnavailable(f"batch {batch_id} cannot be queued: {error}") from error


def queued_batches(app: Celery) -> int:
    """Count the batches that wait for a worker, over all priorities. Raises RedisUnavailable."""
    try:
        with redis_errors_translated(), app.connection_or_acquire() as connection:
            try:
                declared = connection.default_channel.queue_declare(EMBED_QUEUE, passive=True)
            except connection.channel_errors:  # Kombu's answer for a queue that holds nothing
                return 0
            return int(declared.message_count)
    except OperationalError as error:
        raise RedisUnavailable(f"the queue cannot be asked for its length: {error}") from error

"""Searches for those who already speak Celery: the task `query_service.search`, JSON in and out.

`celery -A query_service.celery_search worker -P threads` asks the search service for them; it answers nothing itself.
Callers need no package of ours: `app.send_task("query_service.search", kwargs={"text": "a dog"}, queue="search")`.
"""

from __future__ import annotations

import base64
import binascii
import ssl
from collections.abc import Mapping
from typing import Any

from celery import Celery

from pipeline.errors import InvalidQuery
from pipeline.rerank.options import RerankOptions
from query_service.client import SearchClient
from storage.errors import VisualSearchError
from storage.settings import Settings, load_settings
from workers.servers import redis_url

SEARCH_TASK = "query_service.search"
SEARCH_QUEUE = "search"  # of Celery; the searches that its workers send on wait in queues of their own
_RESULT_SECONDS = 300  # then a result that nobody fetched is forgotten


def make_search_app(settings: Settings) -> Celery:
    """The app on the configured Redis, results included; importing this module opens nothing.

    Raises BundledServerError.
    """
    url = redis_url(settings)
    app = Celery("query_service", broker=url, backend=url, set_as_current=False)
    app.conf.update(
        task_default_queue=SEARCH_QUEUE,
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        result_expires=_RESULT_SECONDS,
        worker_prefetch_multiplier=1,  # what one worker holds back another could ask at once
        worker_send_task_events=False,
        broker_connection_retry_on_startup=True,
        **_tls(url),
    )
    register_search_task(app, SearchClient(settings, redis_url=url))
    return app


def register_search_task(app: Celery, client: SearchClient) -> None:
    """Let this app's workers ask through this client."""

    def search(**question: Any) -> dict[str, Any]:
        return answer_as_json(client, question)

    app.task(name=SEARCH_TASK)(search)


def answer_as_json(client: SearchClient, question: Mapping[str, Any]) -> dict[str, Any]:
    """The answer as JSON, or `{"error": ...}`: whoever asks need not have our exceptions to read it.

    Takes the keywords of `SearchClient.search`, with `image_base64` for pictures, and `options` as a map.
    """
    try:
        return client.search(**_question(question)).model_dump(mode="json")
    except VisualSearchError as error:
        return {"error": {"reason": error.reason, "message": str(error), "retryable": error.retryable}}
    except TypeError as error:  # keywords that there are not
        return {"error": {"reason": InvalidQuery.reason, "message": str(error), "retryable": False}}


def _question(given: Mapping[str, Any]) -> Any:
    question = _with_picture(given)
    if isinstance(question.get("options"), Mapping):
        question["options"] = RerankOptions.model_validate(question["options"])
    if isinstance(question.get("parts"), list | tuple):
        question["parts"] = [_with_picture(part) if isinstance(part, Mapping) else part for part in question["parts"]]
    return question


def _with_picture(given: Mapping[str, Any]) -> dict[str, Any]:
    """Never `image`: a path would be read on the worker's machine, where nobody meant it."""
    if "image" in given:
        raise InvalidQuery("pictures travel as image_base64")
    fields = dict(given)
    encoded = fields.pop("image_base64", None)
    if encoded is None:
        return fields
    try:
        return {**fields, "image": base64.b64decode(encoded, validate=True)}
    except (binascii.Error, TypeError, ValueError) as error:
        raise InvalidQuery(f"image_base64 is no base64: {error}") from error


def _tls(url: str) -> dict[str, Any]:
    required = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    return {"broker_use_ssl": required, "redis_backend_use_ssl": required} if url.startswith("rediss://") else {}


def __getattr__(name: str) -> Any:
    """`app`, for the `celery -A` command; made when it is asked for, so that importing opens nothing (PEP 562)."""
    if name != "app":
        raise AttributeError(f"module 'query_service.celery_search' has no attribute '{name}'")
    app = make_search_app(load_settings())
    globals()["app"] = app
    return app

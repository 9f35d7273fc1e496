"""What ties the aggregator to Redis and to the snapshot store: queue length, hints, addresses."""

from __future__ import annotations

from pathlib import Path

import pytest
from buckets import Bucket
from pydantic import SecretStr
from servers import free_port

from storage.catalog import Catalog, Generation, IndexBatch
from storage.records import ModelIdentity
from storage.settings import Settings
from storage.snapshots import snapshots_of
from storage.vector_index import VectorIndex
from workers.celery_app import make_app, queued_batches, send_batch
from workers.change_hints import announce_change, changes_channel
from workers.errors import RedisUnavailable
from workers.servers import connect_url

MODEL = ModelIdentity(
    name="baseline", revision="builtin", weights_fingerprint="w", preprocessing_fingerprint="p", dimension=4
)


def settings_with(redis_url: str, tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, redis_url=SecretStr(redis_url))


def test_queued_batches_are_counted_over_all_priorities(redis_url: str, tmp_path: Path) -> None:
    app = make_app(settings_with(redis_url, tmp_path))
    assert queued_batches(app) == 0
    for batch_id, priority in enumerate((0, 0, 3, 9)):
        send_batch(app, batch_id, priority)
    assert queued_batches(app) == 4
    with connect_url(redis_url) as client:
        client.flushall()
    assert queued_batches(app) == 0
    send_batch(app, 9, 0)  # a wiped Redis takes new batches at once
    assert queued_batches(app) == 1
    app.close()


def test_a_queue_that_cannot_be_asked_is_a_clear_error(tmp_path: Path) -> None:
    app = make_app(settings_with(f"redis://127.0.0.1:{free_port()}/0", tmp_path))
    with pytest.raises(RedisUnavailable):
        queued_batches(app)
    app.close()


def test_a_change_is_told_to_those_who_listen_for_its_generation(redis_url: str) -> None:
    with connect_url(redis_url) as client, client.pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe(changes_channel(7))
        listener.get_message(timeout=60)
        announce_change(client, 8, 1)
        announce_change(client, 7, 42)
        message = listener.get_message(timeout=60)
        assert message is not None
        assert (message["channel"], message["data"]) == (b"vs:changes:7", b"42")


@pytest.mark.parametrize("kind", ["default", "folder", "s3"])
def test_snapshots_go_where_the_settings_say(
    tmp_path: Path, kind: str, s3_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_bucket.endpoint_url)
    addresses = {"default": None, "folder": str(tmp_path / "elsewhere"), "s3": f"s3://{s3_bucket.name}/below"}
    settings = Settings(data_dir=tmp_path / "data", snapshot_address=addresses[kind])
    with Catalog.open(tmp_path / "catalog.db") as catalog:
        generation = catalog.generations.ensure_active(catalog.collections.ensure("photos").id, MODEL)
        uri = publish_empty(catalog, generation, settings)
    begins = {
        "default": (tmp_path / "data" / "snapshots").as_uri(),
        "folder": (tmp_path / "elsewhere").as_uri(),
        "s3": f"s3://{s3_bucket.name}/below/",
    }
    assert uri.startswith(begins[kind])


def publish_empty(catalog: Catalog, generation: Generation, settings: Settings) -> str:
    catalog.commit(generation.id, IndexBatch())
    with VectorIndex(4, model=MODEL).reading() as nothing:
        return snapshots_of(settings, catalog).publish(generation, 0, nothing).uri

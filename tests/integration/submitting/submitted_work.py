"""Working off what was submitted, as workers and aggregator do, and looking at what waits."""

from __future__ import annotations

from pipeline.embedding_service import EmbeddingService
from pipeline.indexing.context import IndexingContext, IndexOptions
from pipeline.indexing.run import index_items
from pipeline.indexing.source import SourceItem
from storage.catalog import BatchResult, Catalog, IndexBatch, JobOptions, JobRequest
from storage.images.backend import StoredObject
from storage.images.locate import ImageReader, open_source
from workers.embed_batches import merged
from workers.job_client import JobClient
from workers.submitting.submit import generation_for


def work_off(catalog: Catalog) -> int:
    """Do everything that waits, as workers and aggregator do; return how many batches that were."""
    done = 0
    while named := catalog.batches.sweep(resend_seconds=0).to_send:
        for unsent in named:
            leased = catalog.batches.lease(unsent.batch_id, "test", 60)
            assert leased is not None
            parts: list[IndexBatch] = []
            service = EmbeddingService("baseline")
            options = IndexOptions(commit_images=1000, restore_deleted=leased.restore_deleted)
            context = IndexingContext(catalog, leased.generation, lambda s=service: s, options, sink=parts.append)
            items = [
                SourceItem(one.image_id, StoredObject(one.key, one.uri, one.etag, one.size_bytes, 0), one.attributes)
                for one in leased.items
            ]
            reader = ImageReader() if leased.by_address else open_source(leased.source)
            report = index_items(context, reader, items)
            counts = {name: number for name, number in report.counts().items() if name != "listed"}
            result = BatchResult(leased.id, leased.generation.id, merged(parts), counts)
            assert catalog.commit_results(None, [result]) == [True]
            done += 1
    return done


def ids_of(client: JobClient) -> set[str]:
    collection = client.catalog.collections.get("default")
    return {image.image_id for image in client.catalog.images.list(collection.id)}


def queued(redis_url: str) -> int:
    """How many messages wait for workers, whatever their priority."""
    import redis

    with redis.Redis.from_url(redis_url, protocol=2) as connection:
        return sum(connection.llen(key) for key in connection.scan_iter("embed*"))


def request_for(client: JobClient, source: str) -> JobRequest:
    """The request that the client makes for a source."""
    generation = generation_for(client.catalog, "default", client.settings)
    return JobRequest(generation.collection_id, generation.id, "index", source, JobOptions())

"""The query worker's engine over a real catalog, index and model: batches of requests to replies."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import save_tiny_clip
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import jpeg

from pipeline.embedding_service import EmbeddingService
from pipeline.replica import IndexReplica
from pipeline.rerank import RerankOptions
from pipeline.search import NearestNeighborSearch
from query_service import preloaded_models
from query_service.answering import Answering, Served
from query_service.asked import Asked
from query_service.preloaded_models import PreloadedModels
from query_service.protocol import QueryPart, SearchAnswer, SearchReply, SearchRequest
from query_service.wire import pack_reply, unpack_reply
from storage.catalog import Catalog, IndexBatch, IndexedImage
from storage.errors import CatalogUnavailable, ModelMismatch
from storage.filters import And, Equals, Exists, Filter, Range
from storage.records import ImageMetadata
from storage.settings import Settings
from workers.models import LoadedModels

IMAGES = 60


def wanted(_request_id: str) -> bool:
    return True


@dataclass
class Bench:
    """A collection `photos` of sixty pictures, embedded by a tiny CLIP, and the engine that answers for it."""

    catalog: Catalog
    answering: Answering
    served: Served
    service: EmbeddingService

    def answer(self, *requests: SearchRequest) -> list[SearchReply]:
        return self.answering.answer(requests, {"photos": self.served}, wanted)

    def one(self, *parts: QueryPart, **fields: Any) -> SearchAnswer:
        (reply,) = self.answer(request(*parts, **fields))
        assert reply.answer is not None, reply.error
        return reply.answer

    def reason(self, *parts: QueryPart, **fields: Any) -> str:
        (reply,) = self.answer(request(*parts, **fields))
        assert reply.error is not None
        return reply.error.reason

    def alone(self, asked: SearchRequest) -> Any:
        """What the library answers to a request of one stored image, with no batch and no queue."""
        index, images = self.served.replica.index, self.catalog.images
        search = NearestNeighborSearch(index, metadata=lambda ids: images.shown(self.served.collection.id, ids))
        exclude = set(asked.exclude) | ({asked.parts[0].image_id} if asked.exclude_query else set())
        vector = index.reconstruct(asked.parts[0].image_id or "")
        return search.search_page(vector, asked.options, asked.request_id, exclude=exclude)


def request(*parts: QueryPart, **fields: Any) -> SearchRequest:
    return SearchRequest(collection="photos", parts=parts, **fields)


def photo(number: int) -> QueryPart:
    return QueryPart(image_id=f"photo {number:02}")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("answering")
    checkpoint = save_tiny_clip(folder / "clip")
    models = LoadedModels(Settings(data_dir=folder, model=str(checkpoint)))
    service = EmbeddingService(str(checkpoint))
    with Catalog.open(folder / "catalog.db") as catalog:
        bench = fill(catalog, models, service)
        yield bench
        bench.answering.close()


def fill(catalog: Catalog, models: LoadedModels, service: EmbeddingService) -> Bench:
    collection = catalog.collections.ensure("photos")
    generation = catalog.generations.ensure_active(collection.id, service.identity)
    vectors = service.embed_images([jpeg(seed // 2) for seed in range(IMAGES)])  # each picture twice: ties
    catalog.commit(generation.id, IndexBatch(upserts=[stored(number, row) for number, row in enumerate(vectors)]))
    replica = IndexReplica(catalog, generation)
    replica.catch_up()
    return Bench(catalog, Answering(catalog, models, worker="here:1"), Served(collection, generation, replica), service)


def stored(number: int, vector: np.ndarray) -> IndexedImage:
    attributes: dict[str, Any] = {"year": 2000 + number % 7}
    if number % 3:
        attributes["shop"] = "xy"[number % 2]
    name = f"photo {number:02}"
    return IndexedImage(ImageMetadata(image_id=name, source_uri=f"file:///{name}", attributes=attributes), vector)


class Watched:
    """Counts the calls of one method of an object, which go on to the method itself."""

    def __init__(self, patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        self.calls: list[Any] = []
        method = getattr(owner, name)

        def passed_on(*arguments: Any, **keywords: Any) -> Any:
            self.calls.append(arguments[-1])
            return method(*arguments, **keywords)

        patch.setattr(owner, name, passed_on)


# -- what comes back --------------------------------------------------------------------------------------------


def test_an_answer_has_results_with_addresses_and_its_provenance(bench: Bench) -> None:
    answer = bench.one(photo(0), options=RerankOptions(top_k=3))
    assert answer.image_ids[0] == "photo 01"  # the same picture under another id
    assert [result.rank for result in answer.results] == [1, 2, 3]
    assert answer.results[0].source_uri == "file:///photo 01"
    assert answer.results[0].attributes == {"year": 2001, "shop": "y"}
    assert answer.normalized
    told = answer.provenance
    assert (told.worker, told.model, told.generation_id) == ("here:1", bench.service.identity, 1)
    assert (told.seq, told.images, told.batch_size) == (bench.served.replica.seq, IMAGES, 1)
    assert set(told.stage_seconds) == {"embed", "search", "metadata", "total"}
    parts = sum(seconds for stage, seconds in told.stage_seconds.items() if stage != "total")
    assert 0 < parts <= told.stage_seconds["total"]


def test_an_answer_travels_and_stays_what_it_is(bench: Bench) -> None:
    (reply,) = bench.answer(request(photo(3), explain=True, options=RerankOptions(diversity=0.5)))
    assert unpack_reply(pack_reply(reply)) == reply


def test_every_form_of_a_part_finds_the_picture_itself(bench: Bench) -> None:
    vector = tuple(float(number) for number in 3 * bench.served.replica.index.reconstruct("photo 08"))
    for part in (QueryPart(image=jpeg(4)), QueryPart(vector=vector), photo(8)):
        answer = bench.one(part, exclude_query=False, options=RerankOptions(top_k=2))
        assert answer.image_ids == ["photo 08", "photo 09"]
        assert answer.results[0].score == pytest.approx(1, abs=1e-5)


def test_a_text_is_compared_with_the_pictures(bench: Bench) -> None:
    answer = bench.one(QueryPart(text="a red dog"), options=RerankOptions(top_k=IMAGES))
    cosines = bench.served.replica.index.reconstruct_many(answer.image_ids) @ bench.service.embed_text("a red dog")
    assert [result.score for result in answer.results] == pytest.approx(cosines, abs=1e-5)


def test_a_mix_is_the_weighted_sum_of_its_parts(bench: Bench) -> None:
    parts = (photo(4), QueryPart(text="a photo", weight=2.0), QueryPart(image=jpeg(9), weight=-0.5))
    answer = bench.one(*parts, options=RerankOptions(top_k=IMAGES))
    index, service = bench.served.replica.index, bench.service
    total = index.reconstruct("photo 04") + 2 * service.embed_text("a photo") - 0.5 * service.embed_image(jpeg(9))
    cosines = index.reconstruct_many(answer.image_ids) @ (total / np.linalg.norm(total))
    assert [result.score for result in answer.results] == pytest.approx(cosines, abs=1e-5)


def test_stored_images_that_are_asked_with_are_no_results_unless_wanted(bench: Bench) -> None:
    parts = (photo(4), QueryPart(image_id="photo 20", weight=-0.1))
    everything = RerankOptions(top_k=100)
    names = bench.one(*parts, exclude=("photo 30", "unheard of"), options=everything).image_ids
    assert set(names) == {f"photo {n:02}" for n in range(IMAGES)} - {"photo 04", "photo 20", "photo 30"}
    assert len(bench.one(*parts, exclude_query=False, options=everything)) == IMAGES


def test_an_explanation_comes_when_it_is_asked_for(bench: Bench) -> None:
    options = RerankOptions(filter=Equals(key="shop", value="x"), near_duplicate_threshold=0.9999, top_k=4)
    plain, told = bench.one(photo(1), options=options), bench.one(photo(1), options=options, explain=True)
    assert plain.explanation is None
    assert told.results == plain.results
    assert told.explanation is not None
    assert told.explanation.steps == ["filter", "normalize", "near_duplicates", "page"]
    assert told.explanation.dropped["filter"] == sum(not (n % 3 and n % 2 == 0) for n in range(IMAGES))
    assert list(told.explanation.results) == told.image_ids


# -- one bad request fails alone --------------------------------------------------------------------------------


def test_each_bad_request_gets_its_own_error_and_the_good_ones_their_answers(bench: Bench) -> None:
    bad = {
        "corrupt": [QueryPart(image=jpeg(1)[:200])],
        "unsupported_format": [QueryPart(image=b"no picture"), photo(1)],
        "unknown_id": [QueryPart(image_id="nobody")],
        "invalid_vector": [QueryPart(vector=(1.0, 2.0))],
        "invalid_query": [photo(0), QueryPart(image_id="photo 01", weight=-1.0)],  # the same picture
    }
    good = [[photo(2)], [QueryPart(image=jpeg(1))], [QueryPart(text="a cat")]]
    replies = bench.answer(*(request(*parts) for pair in zip(bad.values(), good * 2, strict=False) for parts in pair))
    assert [reply.error.reason for reply in replies[::2] if reply.error is not None] == list(bad)
    assert all(reply.answer is not None for reply in replies[1::2])


def test_a_vector_of_zeros_is_refused(bench: Bench) -> None:
    assert bench.reason(QueryPart(vector=(0.0,) * 24)) == "invalid_vector"


def test_an_unknown_collection_is_named(bench: Bench) -> None:
    other = SearchRequest(collection="nothing here", parts=(photo(0),))
    first, second = bench.answer(other, request(photo(0)))
    assert first.error is not None
    assert first.error.reason == "unknown_collection"
    assert "'nothing here'" in first.error.message
    assert second.answer is not None


def test_an_unexpected_failure_is_logged_and_tells_no_internals(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A part of the model that breaks for one picture, alone or in a batch."""
    prepare = EmbeddingService.prepare

    def breaking(self: EmbeddingService, image: Any) -> Any:
        if image == jpeg(7):
            raise RuntimeError("secret of the device")
        return prepare(self, image)

    monkeypatch.setattr(EmbeddingService, "prepare", breaking)
    with caplog.at_level(logging.ERROR):
        broken, fine = bench.answer(request(QueryPart(image=jpeg(7))), request(QueryPart(image=jpeg(8))))
    assert broken.error is not None
    assert broken.error.reason == "remote_failure"
    assert "secret" not in broken.error.message
    assert "secret of the device" in caplog.text
    assert fine.answer is not None


def test_a_model_call_that_fails_for_one_text_answers_the_others(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    embed = EmbeddingService.embed_texts

    def breaking(self: EmbeddingService, texts: Sequence[str]) -> Any:
        if "bad" in texts:
            raise RuntimeError("the tokenizer choked")
        return embed(self, texts)

    monkeypatch.setattr(EmbeddingService, "embed_texts", breaking)
    replies = bench.answer(*(request(QueryPart(text=text)) for text in ("a cat", "bad", "a dog")))
    assert [reply.answer is not None for reply in replies] == [True, False, True]


def test_words_for_a_model_that_knows_none_are_refused_and_stored_images_found(tmp_path: Path) -> None:
    models, service = LoadedModels(Settings(data_dir=tmp_path)), EmbeddingService("baseline")
    with Catalog.open(tmp_path / "catalog.db") as catalog:
        bench = fill(catalog, models, service)
        assert bench.reason(QueryPart(text="a cat")) == "text_not_supported"
        assert bench.one(photo(6)).image_ids[0] == "photo 07"
        bench.answering.close()


def test_a_model_that_cannot_be_had_fails_only_those_who_need_it(tmp_path: Path) -> None:
    """Stored ids and vectors need no model."""
    models, service = LoadedModels(Settings(data_dir=tmp_path)), EmbeddingService("baseline")
    with Catalog.open(tmp_path / "catalog.db") as catalog:
        bench = fill(catalog, models, service)
        another = service.identity.model_copy(update={"weights_fingerprint": "another"})
        bench.served = replace(bench.served, generation=replace(bench.served.generation, model=another))
        refused, fine = bench.answer(request(QueryPart(image=jpeg(1))), request(photo(6)))
        assert refused.error is not None
        assert refused.error.reason == "model_mismatch"
        assert fine.answer is not None
        bench.answering.close()


def test_a_model_that_could_not_be_loaded_is_not_tried_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each try takes seconds, in which no other search is answered."""
    models, service = PreloadedModels(Settings(data_dir=tmp_path)), EmbeddingService("baseline")
    another = service.identity.model_copy(update={"weights_fingerprint": "another"})
    loads = Watched(monkeypatch, LoadedModels, "_load")
    for _ in range(3):
        with pytest.raises(ModelMismatch, match="same checkpoint"):
            models.get(another)
    assert len(loads.calls) == 1
    assert models.get(service.identity).identity == service.identity
    monkeypatch.setattr(preloaded_models, "_FAILED_SECONDS", 0.0)
    with pytest.raises(ModelMismatch):
        models.get(another)
    assert len(loads.calls) == 3


def test_a_catalog_that_does_not_answer_is_nobodys_fault(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(*_arguments: Any, **_keywords: Any) -> Any:
        raise CatalogUnavailable("the catalog cannot be used")

    monkeypatch.setattr(bench.catalog.images, "matching_ids", unavailable)
    filtered = RerankOptions(filter=Exists(key="shop"))
    refused, fine = bench.answer(request(photo(1), options=filtered), request(photo(1)))
    assert refused.error is not None
    assert (refused.error.reason, refused.error.retryable) == ("catalog_unavailable", True)
    assert fine.answer is not None
    shown = Watched(monkeypatch, bench.catalog.images, "shown")
    monkeypatch.setattr(bench.catalog.images, "shown", lambda *_a: (shown.calls.append(1), unavailable())[1])
    replies = bench.answer(request(photo(1)), request(photo(2)))
    assert all(reply.error is not None and reply.error.retryable for reply in replies)
    assert shown.calls == [1]  # nobody waits for it a second time


# -- deadlines --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked_before", [0, 1])
def test_a_request_whose_time_is_over_is_dropped_before_the_next_stage(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, asked_before: int
) -> None:
    """Before embedding (0), or between embedding and searching (1)."""
    late, fine = request(QueryPart(image=jpeg(1))), request(QueryPart(image=jpeg(2)))
    asked: list[str] = []

    def still_wanted(request_id: str) -> bool:
        asked.append(request_id)
        return request_id != late.request_id or asked.count(request_id) <= asked_before

    prepared = Watched(monkeypatch, EmbeddingService, "prepare")
    searched = Watched(monkeypatch, bench.served.replica.index, "search_many")
    first, second = bench.answering.answer([late, fine], {"photos": bench.served}, still_wanted)
    assert first.error is not None
    assert (first.error.reason, first.error.retryable) == ("deadline_exceeded", True)
    assert second.answer is not None
    assert len(prepared.calls) == 1 + asked_before
    assert searched.calls == [[10]]


def test_a_batch_of_none_is_no_work(bench: Bench) -> None:
    assert bench.answer() == []


# -- what a batch shares ----------------------------------------------------------------------------------------


def test_a_batch_is_one_call_to_model_index_and_catalog(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    images = Watched(monkeypatch, EmbeddingService, "embed_prepared")
    texts = Watched(monkeypatch, EmbeddingService, "embed_texts")
    searches = Watched(monkeypatch, bench.served.replica.index, "search_many")
    shown = Watched(monkeypatch, bench.catalog.images, "shown")
    asked = [QueryPart(image=jpeg(seed % 3)) for seed in range(5)]  # three different pictures
    asked += [QueryPart(text=text) for text in ("a cat", "a dog", "a cat")]
    replies = bench.answer(
        *(request(part, options=RerankOptions(top_k=2 + place)) for place, part in enumerate(asked)),
        request(photo(1), exclude=("photo 05", "photo 06"), options=RerankOptions(offset=3)),
    )
    assert all(reply.answer is not None for reply in replies)
    assert [len(batch) for batch in images.calls] == [3]
    assert texts.calls == [["a cat", "a dog"]]
    assert searches.calls == [[2, 3, 4, 5, 6, 7, 8, 9, 10 + 3 + 3]]
    assert len(shown.calls) == 1


def test_a_thousand_pictures_are_never_in_memory_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty-four searches may ask with sixteen pictures each."""
    prepared = Watched(monkeypatch, EmbeddingService, "prepare")
    embed, waiting, most = EmbeddingService.embed_prepared, [0], [0]

    def embedding(self: EmbeddingService, batch: Sequence[Any]) -> Any:
        most[0] = max(most[0], len(prepared.calls) - waiting[0])
        waiting[0] += len(batch)
        return embed(self, batch)

    monkeypatch.setattr(EmbeddingService, "embed_prepared", embedding)
    searches = [request(*(QueryPart(image=jpeg(100 * number + part)) for part in range(16))) for number in range(10)]
    assert all(reply.answer is not None for reply in bench.answer(*searches))
    assert waiting == [160]
    assert most[0] <= 64


def test_a_result_that_cannot_be_told_fails_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    reply = Asked.reply

    def breaking(self: Asked, provenance: Any) -> Any:
        if self.request.explain:
            raise ValueError("secret of the results")
        return reply(self, provenance)

    monkeypatch.setattr(Asked, "reply", breaking)
    broken, fine = bench.answer(request(photo(1), explain=True), request(photo(2)))
    assert broken.error is not None
    assert broken.error.reason == "remote_failure"
    assert fine.answer is not None


def test_equal_filters_share_one_query_and_one_search(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 and True are equal in Python and different to a filter."""
    filters: list[Filter] = [Equals(key="year", value=2001), Equals(key="year", value=2001)]
    filters += [Equals(key="on", value=1), Equals(key="on", value=True)]
    matching = Watched(monkeypatch, bench.catalog.images, "matching_ids")
    searches = Watched(monkeypatch, bench.served.replica.index, "search_many")
    replies = bench.answer(*(request(photo(1), options=RerankOptions(filter=one)) for one in filters))
    assert [len(reply.answer or ()) for reply in replies] == [8, 8, 0, 0]
    assert matching.calls == [filters[0], filters[2], filters[3]]
    assert searches.calls == [[11, 11], [11], [11]]


FILTERS: list[Filter | None] = [
    None,
    None,
    Equals(key="shop", value="x"),
    Range(key="year", gte=2003),
    And(filters=(Exists(key="shop"), Range(key="year", lt=2002))),
]

requests = st.builds(
    lambda number, fields, options: request(photo(number), options=RerankOptions(**options), **fields),
    number=st.integers(0, IMAGES - 1),
    fields=st.fixed_dictionaries(
        {
            "exclude": st.lists(st.integers(0, IMAGES).map("photo {:02}".format), max_size=5).map(tuple),
            "exclude_query": st.booleans(),
            "explain": st.booleans(),
        }
    ),
    options=st.fixed_dictionaries(
        {
            "top_k": st.integers(1, 30),
            "offset": st.sampled_from([0, 0, 5, 40]),
            "filter": st.sampled_from(FILTERS),
            "normalize": st.booleans(),
            "min_score": st.sampled_from([None, None, 0.5]),
            "near_duplicate_threshold": st.sampled_from([None, None, 0.999]),
            "group_by": st.sampled_from([None, None, "shop", "year"]),
            "group_size": st.integers(1, 4),
            "diversity": st.sampled_from([None, None, 0.4]),
            "diversity_window": st.sampled_from([5, 100]),
        }
    ),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.lists(requests, min_size=1, max_size=10))
def test_a_batch_is_answered_to_the_bit_as_each_request_alone(bench: Bench, batch: list[SearchRequest]) -> None:
    for asked, reply in zip(batch, bench.answer(*batch), strict=True):
        assert reply.request_id == asked.request_id
        assert reply.answer is not None
        alone = bench.alone(asked)
        assert reply.answer.results == alone.results
        assert (reply.answer.normalized, reply.answer.model) == (alone.normalized, alone.model)


def test_pages_of_a_request_neither_repeat_nor_skip(bench: Bench) -> None:
    options = RerankOptions(filter=Exists(key="shop"), near_duplicate_threshold=0.9999, diversity=0.3, top_k=3)
    pages = [request(photo(1), options=options.replace(offset=offset)) for offset in range(0, 60, 3)]
    names = [name for reply in bench.answer(*pages) if reply.answer for name in reply.answer.image_ids]
    assert names == bench.one(photo(1), options=options.replace(top_k=100)).image_ids
    assert len(names) == len(set(names)) > 10


# -- what SQL and the replica do not agree on yet -----------------------------------------------------------------


@pytest.fixture
def lagging(tmp_path: Path) -> Iterator[Callable[[list[str]], Bench]]:
    """A bench of its own, whose catalog deletes images without its replica catching up."""
    models, service = LoadedModels(Settings(data_dir=tmp_path)), EmbeddingService("baseline")
    with Catalog.open(tmp_path / "catalog.db") as catalog:
        bench = fill(catalog, models, service)

        def after_deleting(names: list[str]) -> Bench:
            catalog.images.delete(bench.served.collection.id, names)
            return bench

        yield after_deleting
        bench.answering.close()


def test_a_removed_image_stays_a_bare_result_until_the_replica_catches_up(
    lagging: Callable[[list[str]], Bench],
) -> None:
    bench = lagging(["photo 01"])
    options = RerankOptions(top_k=10)
    before = bench.one(photo(0), options=options)
    assert len(before) == 10
    assert (before.image_ids[0], before.results[0].source_uri, before.results[0].attributes) == ("photo 01", "", {})
    bench.served.replica.catch_up()
    after = bench.one(photo(0), options=options)
    assert after.image_ids[:9] == before.image_ids[1:]
    assert after.provenance.seq > before.provenance.seq


def test_a_removed_image_matches_no_filter_and_is_no_query_once_caught_up(
    lagging: Callable[[list[str]], Bench],
) -> None:
    bench = lagging(["photo 01"])
    shops = bench.one(photo(0), options=RerankOptions(top_k=100, filter=Exists(key="shop")))
    assert "photo 01" not in shops.image_ids
    bench.served.replica.catch_up()
    assert bench.reason(photo(1)) == "unknown_id"

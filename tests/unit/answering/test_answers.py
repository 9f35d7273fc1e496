"""What comes back for each form of a question, also where SQL and the replica do not agree yet."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from answering_bench import IMAGES, Bench, photo, request
from pictures import jpeg

from pipeline.rerank import RerankOptions
from query_service.protocol import QueryPart
from query_service.wire import pack_reply, unpack_reply
from storage.filters import Equals, Exists


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


def test_pages_of_a_request_neither_repeat_nor_skip(bench: Bench) -> None:
    options = RerankOptions(filter=Exists(key="shop"), near_duplicate_threshold=0.9999, diversity=0.3, top_k=3)
    pages = [request(photo(1), options=options.replace(offset=offset)) for offset in range(0, 60, 3)]
    names = [name for reply in bench.answer(*pages) if reply.answer for name in reply.answer.image_ids]
    assert names == bench.one(photo(1), options=options.replace(top_k=100)).image_ids
    assert len(names) == len(set(names)) > 10


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

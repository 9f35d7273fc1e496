"""One bad request, model or catalog fails alone, with a reason and no internals."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from answering_bench import Bench, Watched, fill, photo, request
from pictures import jpeg

from pipeline.embedding_service import EmbeddingService
from pipeline.rerank import RerankOptions
from query_service.answers import preloaded_models
from query_service.answers.asked import Asked
from query_service.answers.preloaded_models import PreloadedModels
from query_service.protocol import QueryPart, SearchRequest
from storage.catalog import Catalog
from storage.errors import CatalogUnavailable, ModelMismatch
from storage.filters import Exists
from storage.settings import Settings
from workers.models import LoadedModels


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


def test_a_failure_that_only_a_batch_has_is_logged_and_each_is_answered_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    embed = EmbeddingService.embed_texts

    def breaking(self: EmbeddingService, texts: Sequence[str]) -> Any:
        if len(texts) > 1:
            raise RuntimeError("no memory for a batch")
        return embed(self, texts)

    monkeypatch.setattr(EmbeddingService, "embed_texts", breaking)
    replies = bench.answer(*(request(QueryPart(text=text)) for text in ("a cat", "a dog")))
    assert all(reply.answer is not None for reply in replies)
    assert "no memory for a batch" in caplog.text


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

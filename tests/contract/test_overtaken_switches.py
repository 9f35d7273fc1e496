"""A switch to a generation that was built for a while, and what another process did meanwhile: at every step of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from catalog_batches import MODEL, indexed, state_of_follower
from interleaved import at_every_transaction, overtaken

from pipeline.errors import GateFailed
from pipeline.reindex import Gate, ReindexReport, rebuild_from_vectors, switch
from storage.catalog import Catalog, Generation, IndexBatch
from storage.errors import GenerationReplaced

NAMES = "abc"
OTHER = MODEL.model_copy(update={"name": "other", "weights_fingerprint": "f" * 64})


def filled(catalog: Catalog, name: str) -> Generation:
    """The active generation of a new collection, with three images."""
    generation = catalog.generations.ensure_active(catalog.collections.ensure(name).id, MODEL)
    catalog.commit(generation.id, IndexBatch(upserts=[indexed(one, seed) for seed, one in enumerate(NAMES)]))
    return generation


def of_other_model(catalog: Catalog, active: Generation) -> Generation:
    """A generation beside the active one that is ready to be switched to."""
    other = catalog.lifecycle.begin(active.collection_id, OTHER)
    images = [indexed(one, seed) for seed, one in enumerate(NAMES, start=10)]
    catalog.commit(other.id, IndexBatch(upserts=images, vectors_only=True))
    return other


def test_a_rebuild_never_undoes_a_change_of_the_model_that_came_while_it_ran(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(number: int) -> bool:
        active = filled(catalog, f"photos-{number}")
        other = of_other_model(catalog, active)

        def change_the_model() -> None:
            catalog.lifecycle.activate(other.id)
            catalog.commit(other.id, IndexBatch(upserts=[indexed("new", 99)]))

        with overtaken(monkeypatch, number, change_the_model) as overtaking:
            try:
                rebuild_from_vectors(catalog, active)
            except GenerationReplaced:
                assert overtaking.happened
        if not overtaking.happened:
            change_the_model()
        now_active = catalog.generations.active(active.collection_id)
        assert now_active is not None
        assert now_active.id == other.id
        assert set(state_of_follower(catalog, other.id)) == {*NAMES, "new"}
        return overtaking.happened

    assert at_every_transaction(run) > 3


def test_a_rebuild_keeps_an_image_that_gets_its_vector_while_it_runs(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(number: int) -> bool:
        before = filled(catalog, f"photos-{number}")
        lacking = catalog.lifecycle.begin(before.collection_id, OTHER)
        catalog.commit(lacking.id, IndexBatch(upserts=[indexed("a", 10)], vectors_only=True))
        active = catalog.lifecycle.activate(lacking.id, missing_allowed=2)  # as with --allow-missing
        late = IndexBatch(upserts=[indexed("b", 11)])
        with overtaken(monkeypatch, number, lambda: catalog.commit(active.id, late)) as overtaking:
            report = rebuild_from_vectors(catalog, active)
        assert report.switched
        expected = {"a", "b"} if overtaking.happened else {"a"}
        assert set(state_of_follower(catalog, report.generation_id)) == expected
        return overtaking.happened

    assert at_every_transaction(run) > 3


def test_a_gate_counts_for_the_generation_that_it_measured(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"queries": [{"query_id": "a", "ground_truth": ["b"]}]}))

    def run(number: int) -> bool:
        active = filled(catalog, f"photos-{number}")
        new, other = of_other_model(catalog, active), filled_beside(catalog, active)
        report = ReindexReport(generation_id=new.id)
        with overtaken(monkeypatch, number, lambda: catalog.lifecycle.activate(other.id)) as overtaking:
            try:
                switch(catalog, report, active, Gate(truth, "mrr", max_drop=1.0))
            except GateFailed as error:
                assert "another generation" in str(error)  # noqa: PT017 - only where it was overtaken
        now_active = catalog.generations.active(active.collection_id)
        assert now_active is not None
        assert now_active.id == (other.id if overtaking.happened else new.id)
        return overtaking.happened

    assert at_every_transaction(run) > 3


def filled_beside(catalog: Catalog, active: Generation) -> Generation:
    """A third generation, of a model of its own."""
    third = catalog.lifecycle.begin(active.collection_id, OTHER.model_copy(update={"name": "third"}))
    images = [indexed(one, seed) for seed, one in enumerate(NAMES, start=20)]
    catalog.commit(third.id, IndexBatch(upserts=images, vectors_only=True))
    return third

"""Changing the model of a collection: searches go on, a gate may refuse, a kill costs nothing, a rollback goes back."""

import json
import subprocess
import sys

import numpy as np
import pytest
from checkpoints import save_tiny_clip
from pictures import jpeg, write_photos

from pipeline.errors import GateFailed, InvalidQuery, ReindexIncomplete
from pipeline.reindex import Gate
from storage.errors import UnknownGeneration
from storage.settings import Settings
from visual_search.collection import ImageCollection, Query
from visual_search.reindexing import ReindexPlan, reindex, roll_back


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(save_tiny_clip(tmp_path_factory.mktemp("clip"), projection_dim=32))


@pytest.fixture
def photos(tmp_path):
    write_photos(tmp_path / "photos", 9)
    return tmp_path / "photos"


@pytest.fixture
def collection(tmp_path, photos):
    settings = Settings(data_dir=tmp_path / "data", model="baseline", fetch_threads=2, commit_images=4, batch_size=3)
    with ImageCollection(settings=settings) as opened:
        opened.index(photos)
        yield opened


def _finds_itself(collection, key: str) -> bool:
    return collection.search(Query(image_id=key)).model == collection.generation.model


def test_a_reindex_moves_every_image_to_the_new_model_and_searches_switch_with_it(collection, checkpoint):
    before = collection.search(Query(image_id="odd/01.jpg"))
    report = reindex(collection, ReindexPlan(checkpoint))
    assert (report.embedded, report.failed, report.switched) == (9, 0, True)
    after = collection.search(Query(image_id="odd/01.jpg"))
    assert before.model.name == "baseline"
    assert (after.model.name, after.model.dimension) == (checkpoint, 32)
    assert len(collection.search_service.index) == 9


def test_a_rebuild_needs_no_model_and_keeps_every_vector(collection):
    collection.delete_images(["even/00.jpg"])
    ids = sorted(collection.search_service.index.ids())
    before = collection.search_service.index.reconstruct_many(ids)
    report = reindex(collection, ReindexPlan(None))
    assert (report.copied, report.embedded, report.switched) == (8, 0, True)
    np.testing.assert_array_equal(collection.search_service.index.reconstruct_many(ids), before)
    assert collection.generation.last_seq == 8


def test_a_gate_lets_a_better_model_pass_and_keeps_the_old_one_otherwise(collection, checkpoint, tmp_path):
    truth = tmp_path / "truth.json"
    best = {key: collection.search(Query(image_id=key)).image_ids[0] for key in ("odd/01.jpg", "odd/03.jpg")}
    queries = [{"query_id": key, "ground_truth": [found]} for key, found in best.items()]
    truth.write_text(json.dumps({"queries": queries}))  # baseline is perfect by construction
    with pytest.raises(GateFailed, match=r"mrr would go from 1\.0000"):
        reindex(collection, ReindexPlan(checkpoint, Gate(truth, "mrr")))
    assert collection.generation.model.name == "baseline"
    with pytest.raises(GateFailed, match="no measure 'beauty'"):
        reindex(collection, ReindexPlan(checkpoint, Gate(truth, "beauty")))
    report = reindex(collection, ReindexPlan(checkpoint, Gate(truth, "mrr", max_drop=1.0)))
    assert report.embedded == 0  # what was built before the gate refused was kept
    assert report.gate.passed
    assert collection.generation.model.name == checkpoint


def test_an_interrupted_reindex_leaves_searches_alone_and_is_carried_on(collection, checkpoint, photos):
    images = len(write_photos(photos, 80))  # more than are under way at once
    collection.index(photos)

    def interrupt(report):
        if report.indexed >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reindex(collection, ReindexPlan(checkpoint), interrupt)
    assert collection.generation.model.name == "baseline"
    assert _finds_itself(collection, "odd/01.jpg")
    report = reindex(collection, ReindexPlan(checkpoint))
    assert 0 < report.embedded <= images - 4
    assert report.switched


def test_an_image_whose_file_is_gone_keeps_the_old_generation_active(collection, checkpoint, photos):
    (photos / "odd" / "01.jpg").unlink()
    with pytest.raises(ReindexIncomplete, match="1 images"):
        reindex(collection, ReindexPlan(checkpoint))
    assert collection.generation.model.name == "baseline"
    assert [failure.reason for failure in collection.failures()] == ["not_found"]
    collection.delete_images(["odd/01.jpg"])
    assert reindex(collection, ReindexPlan(checkpoint)).switched


def test_a_rollback_embeds_what_came_since_with_the_old_model(collection, checkpoint, photos):
    with pytest.raises(UnknownGeneration):
        roll_back(collection)
    reindex(collection, ReindexPlan(checkpoint))
    (photos / "new.jpg").write_bytes(jpeg(77))
    with ImageCollection(settings=collection.settings.model_copy(update={"model": checkpoint})) as opened:
        assert opened.index(photos).indexed == 1
    report = roll_back(collection)
    assert (report.embedded, report.switched) == (1, True)
    assert collection.generation.model.name == "baseline"
    assert "new.jpg" in collection.search_service.index
    assert collection.audit(photos).clean


def test_images_that_come_during_the_reindex_are_taken_along(collection, checkpoint, photos, tmp_path):
    added = []

    def add_one(report):
        if report.indexed >= 4 and not added:
            (photos / "meanwhile.jpg").write_bytes(jpeg(123))
            added.append("meanwhile.jpg")
            with ImageCollection(settings=collection.settings) as other:
                other.index(photos)

    report = reindex(collection, ReindexPlan(checkpoint), add_one)
    assert (report.embedded, report.switched) == (10, True)
    assert "meanwhile.jpg" in collection.search_service.index


def test_the_same_model_again_is_refused(collection):
    with pytest.raises(InvalidQuery, match="--rebuild"):
        reindex(collection, ReindexPlan("baseline"))


def test_the_commands_do_the_same(collection, checkpoint, tmp_path):
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "visual_search", *arguments, "--data-dir", str(tmp_path / "data")],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    done = run("reindex", "--model", checkpoint)
    assert done.returncode == 0, done.stderr
    assert "9 embedded" in done.stdout
    states = [one["state"] for one in json.loads(run("generations", "list", "--json").stdout)]
    assert states == ["standby", "active"]
    assert "searches use generation 1" in run("generations", "activate", "1").stdout
    assert run("generations", "activate", "7").returncode == 1
    assert json.loads(run("generations", "rollback", "--json").stdout)["generation"] == 2
    assert "1 generations pruned" in run("generations", "prune").stdout
    assert "retired" in run("generations", "list").stdout
    assert run("reindex").returncode == 2
    assert json.loads(run("reindex", "--rebuild", "--json").stdout)["copied"] == 9


class _SwitchedInTheMiddle(ImageCollection):
    """A collection whose model is changed by another process just when a search has begun."""

    to: int | None = None

    def _caught_up(self):
        replica = super()._caught_up()
        if self.to is not None:
            self.catalog.lifecycle.activate(self.to)
        return replica


def test_a_search_that_a_switch_overtakes_asks_with_the_model_of_the_vectors_that_it_searches(tmp_path, photos):
    """Two models of one dimension: a mixed answer would look like any other."""
    first, second = (str(save_tiny_clip(tmp_path / f"clip-{seed}", seed=seed)) for seed in (1, 2))
    settings = Settings(data_dir=tmp_path / "twins", model=first, fetch_threads=2)
    with ImageCollection(settings=settings) as opened:
        opened.index(photos)
        other = reindex(opened, ReindexPlan(second, switch=False)).generation_id
    with _SwitchedInTheMiddle(settings=settings) as overtaken:
        overtaken.to = other
        answer = overtaken.search(Query(image=photos / "odd" / "01.jpg"))
    assert answer.model.name == first
    assert answer[0].image_id == "odd/01.jpg"
    assert answer[0].distance < 1e-6

"""A collection keeps its model, and says so when another or a changed one is asked for."""

import pytest
from checkpoints import save_tiny_clip
from pictures import jpeg, write_photos
from run_outcomes import outcomes_of

from pipeline.errors import InvalidQuery
from storage.errors import (
    ModelMismatch,
    UnknownCollection,
)
from visual_search.collection import ImageCollection, Query


def test_a_collection_keeps_its_model(collection, settings, photos, tmp_path):
    write_photos(photos, 2)
    collection.index(photos)
    other = settings.model_copy(update={"model": str(tmp_path / "another-checkpoint")})
    with ImageCollection(settings=other) as opened:
        assert outcomes_of(opened.index(photos)) == {"unchanged": 2}  # the setting is for new collections
        with pytest.raises(ModelMismatch, match="another --collection"):
            opened.check_model(other.model)


def test_a_checkpoint_may_be_named_by_any_path_that_leads_to_it(settings, photos, tmp_path, monkeypatch):
    save_tiny_clip(tmp_path / "checkpoint")
    write_photos(photos, 2)
    monkeypatch.chdir(tmp_path)
    for path in ("checkpoint", str(tmp_path / "checkpoint")):
        with ImageCollection(settings=settings.model_copy(update={"model": path})) as collection:
            outcomes = outcomes_of(collection.index(photos))
    assert outcomes == {"unchanged": 2}


def test_a_checkpoint_that_changed_under_its_name_is_refused(settings, photos, tmp_path):
    save_tiny_clip(tmp_path / "checkpoint", seed=1)
    write_photos(photos, 2)
    chosen = settings.model_copy(update={"model": str(tmp_path / "checkpoint")})
    with ImageCollection(settings=chosen) as collection:
        collection.index(photos)
    save_tiny_clip(tmp_path / "checkpoint", seed=2)
    with ImageCollection(settings=chosen) as collection, pytest.raises(ModelMismatch, match="restore that checkpoint"):
        collection.search(Query(image=photos / "odd" / "01.jpg"))


def test_an_empty_or_unknown_collection_says_what_to_do(collection, settings, tmp_path):
    with pytest.raises(InvalidQuery, match="visual-search index"):
        collection.search(Query(image_id="x"))
    with pytest.raises(UnknownCollection):
        ImageCollection("never-made", settings=settings, create=False)
    nowhere = settings.model_copy(update={"data_dir": tmp_path / "nowhere"})
    with pytest.raises(UnknownCollection, match="nothing is indexed"):
        ImageCollection(settings=nowhere, create=False)


def test_a_collection_object_never_mixes_models_when_another_process_switches(collection, photos, tmp_path):
    write_photos(photos, 3)
    assert collection.embedding_service.identity.name == "baseline"  # loaded while the collection is empty
    save_tiny_clip(tmp_path / "checkpoint")
    chosen = collection.settings.model_copy(update={"model": str(tmp_path / "checkpoint")})
    with ImageCollection(settings=chosen) as other:
        other.index(photos)
    (photos / "new.jpg").write_bytes(jpeg(60))
    assert collection.index(photos).indexed == 1
    assert collection.search(Query(image=photos / "new.jpg")).results[0].image_id == "new.jpg"
    assert collection.embedding_service.identity.name == str(tmp_path / "checkpoint")

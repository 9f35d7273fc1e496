"""Attributes that a sidecar gives to the images of a source."""

import pytest
from interleaved import at_every_transaction, overtaken
from pictures import jpeg, write_photos
from run_outcomes import outcomes_of

from pipeline.indexing.selection import SourceSelection


def test_attributes_come_from_a_sidecar_and_their_change_needs_no_embedding(collection, photos, tmp_path):
    write_photos(photos, 4)
    sidecar = tmp_path / "labels.csv"
    sidecar.write_text("image_id,label\neven/00.jpg,sky\nodd/01.jpg,sea\nnowhere.jpg,sea\n")
    selection = SourceSelection(attributes_file=sidecar)
    report = collection.index(photos, selection)
    assert (outcomes_of(report), report.attributes_unused) == ({"indexed": 4}, 1)
    assert collection.image("odd/01.jpg").attributes == {"label": "sea"}
    sidecar.write_text("image_id,label\neven/00.jpg,sky\nodd/01.jpg,lake\n")
    assert outcomes_of(collection.index(photos, selection)) == {"refreshed": 1, "unchanged": 3}
    assert collection.image("odd/01.jpg").attributes == {"label": "lake"}
    collection.index(photos)  # without a sidecar, what is known stays
    assert collection.image("odd/01.jpg").attributes == {"label": "lake"}


def test_a_failure_keeps_the_attributes_of_the_sidecar(collection, photos, tmp_path):
    (photos / "bad.jpg").write_bytes(b"junk")
    (photos / "worse.jpg").write_bytes(b"junk")
    sidecar = tmp_path / "labels.csv"
    sidecar.write_text("image_id, label\nbad.jpg, cat\nworse.jpg, dog\nnobody.jpg, bird\n")
    collection.index(photos, SourceSelection(attributes_file=str(sidecar)))
    collection.retry_failures()  # fails again: they stay
    (photos / "bad.jpg").write_bytes(jpeg(5))
    assert collection.retry_failures().indexed == 1
    assert collection.image("bad.jpg").attributes == {"label": "cat"}
    (photos / "worse.jpg").write_bytes(jpeg(6))
    sidecar.write_text("image_id, label\nnobody.jpg, bird\n")
    report = collection.index(photos, SourceSelection(attributes_file=str(sidecar)))
    assert (report.indexed, report.attributes_unused) == (1, 1)
    assert collection.image("worse.jpg").attributes == {"label": "dog"}


def test_a_retry_takes_attributes_from_the_sidecar(collection, photos, tmp_path):
    (photos / "bad.jpg").write_bytes(b"junk")
    sidecar = tmp_path / "labels.csv"
    sidecar.write_text("image_id, label\nbad.jpg, cat\n")
    collection.index(photos, SourceSelection(attributes_file=str(sidecar)))
    (photos / "bad.jpg").write_bytes(jpeg(5))
    collection.retry_failures(attributes_file=sidecar)
    assert collection.image("bad.jpg").attributes == {"label": "cat"}


def test_one_attribute_that_changes_its_type_is_noticed_and_absent_ones_are_not(collection, photos, tmp_path):
    write_photos(photos, 1)
    sidecar = tmp_path / "a.jsonl"
    selection = SourceSelection(attributes_file=sidecar)
    outcomes = []
    for value in ('1, "none": null', '1, "none": []', "true", "true"):
        sidecar.write_text(f'{{"image_id": "even/00.jpg", "flag": {value}}}\n')
        outcomes.append(outcomes_of(collection.index(photos, selection)))
    assert outcomes == [{"indexed": 1}, {"unchanged": 1}, {"refreshed": 1}, {"unchanged": 1}]


@pytest.mark.parametrize("content", ["changed", "touched"])
def test_attributes_that_are_set_at_any_moment_of_a_run_stay(collection, photos, monkeypatch, content):
    """Nobody gives any for the image but its user, while the run looks at it anew."""

    def run(number: int) -> bool:
        name = f"{number}.jpg"
        (photos / name).write_bytes(jpeg(number))
        collection.index(photos)
        collection.catalog.images.set_attributes(collection.record.id, {name: {"by": "first"}})
        (photos / name).write_bytes(jpeg(1000 + number if content == "changed" else number))
        with overtaken(
            monkeypatch,
            number,
            lambda: collection.catalog.images.set_attributes(collection.record.id, {name: {"by": "user"}}),
        ) as overtaking:
            outcome = outcomes_of(collection.index(photos))
        assert outcome == {"indexed" if content == "changed" else "refreshed": 1, "unchanged": number} or number == 0
        expected = {"by": "user"} if overtaking.happened else {"by": "first"}
        assert collection.image(name).attributes == expected, f"at transaction {number}"
        return overtaking.happened

    assert at_every_transaction(run) > 4

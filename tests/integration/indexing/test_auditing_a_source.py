"""The audit of a source: what is missing, changed or gone, and an index that disagrees."""

from closed_folders import close_folder
from pictures import jpeg, write_photos

from pipeline.indexing.selection import SourceSelection
from storage.catalog import tables


def test_the_audit_names_changed_files_and_images_whose_source_is_gone(collection, photos):
    keys = write_photos(photos, 4)
    collection.index(photos)
    (photos / keys[0]).write_bytes(jpeg(77))
    (photos / keys[1]).unlink()
    audit = collection.audit(photos)
    assert not audit.clean
    assert {finding.image_id: finding.problem for finding in audit.findings} == {
        keys[0]: "changed",
        keys[1]: "source_gone",
    }


def test_the_audit_sees_an_index_that_disagrees_and_a_vector_that_is_missing(collection, photos):
    keys = write_photos(photos, 3)
    collection.index(photos)
    index = collection.search_service.index
    index.remove(keys[0])
    audit = collection.audit(photos)
    assert [(one.image_id, one.problem) for one in audit.findings] == [(keys[0], "index_mismatch")]
    damage = tables.images.update().where(tables.images.c.image_id == keys[1]).values(sha256="0" * 64)
    with collection.catalog._database.write() as connection:
        connection.execute(damage)
    problems = {one.image_id: one.problem for one in collection.audit(photos).findings}
    assert problems[keys[1]] == "vector_missing"


def test_the_audit_knows_files_by_their_address_not_by_their_id(collection, photos):
    write_photos(photos, 4)
    collection.index(photos)
    collection.index(photos, SourceSelection(id_prefix="p/"))
    audit = collection.audit(photos)
    assert audit.clean, audit.findings
    wrong_prefix = collection.audit(photos, SourceSelection(id_prefix="q/"))
    assert wrong_prefix.by_problem() == {"not_indexed": 4}
    part = collection.audit(photos / "even")
    assert "source_gone" not in part.by_problem()


def test_an_audit_advises_no_deletion_of_what_is_in_a_folder_that_may_not_be_read(collection, photos, monkeypatch):
    (photos / "a + ü").mkdir(parents=True)
    (photos / "a + ü" / "1.jpg").write_bytes(jpeg(1))
    (photos / "2.jpg").write_bytes(jpeg(2))
    collection.index(photos)
    close_folder(monkeypatch, "a + ü")
    assert collection.audit(photos).by_problem() == {"not_indexed": 1}
    assert collection.index(photos).failures_by_reason == {"access_denied": 1}
    assert collection.audit(photos).by_problem() == {"failed": 1}

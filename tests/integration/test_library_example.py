"""The library example of the design, word for word, on a checkpoint made here; and what belongs around it."""

import json

import numpy as np
import pytest
from checkpoints import save_tiny_clip
from pictures import jpeg, picture
from PIL import Image

from pipeline.errors import CorruptImage, IdTaken
from storage.errors import ImageNotFound, IndexFileError, ModelMismatch
from visual_search import (
    EmbeddingService,
    Equals,
    IndexingService,
    LocalStorage,
    NearestNeighborSearch,
    Reranker,
    RerankOptions,
    VectorIndex,
    evaluate_model,
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_tiny_clip(tmp_path_factory.mktemp("clip"), projection_dim=512)


@pytest.fixture(scope="module")
def embedding_service(checkpoint):
    return EmbeddingService(str(checkpoint))


@pytest.fixture
def indexing_service(embedding_service, tmp_path):
    storage = LocalStorage(root_path=tmp_path / "images")
    return IndexingService(storage=storage, embedding_service=embedding_service, index=VectorIndex(dimension=512))


def test_the_example_of_the_design_runs_as_written(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # the default model cannot be downloaded here, so the setting's default names a checkpoint of the same kind
    monkeypatch.setattr(EmbeddingService.__init__, "__defaults__", (str(checkpoint),))
    image = picture(1)
    ids = [f"photo_{number:03}" for number in range(2, 13)]
    ground_truth = {"queries": [{"query_id": "photo_001", "ground_truth": ids[:2]}]}
    (tmp_path / "evaluation_data.json").write_text(json.dumps(ground_truth))

    storage = LocalStorage(root_path="./data/images")
    embedding_service = EmbeddingService()
    index = VectorIndex(dimension=512)
    indexing_service = IndexingService(storage=storage, embedding_service=embedding_service, index=index)
    indexing_service.index_image(image, "photo_001")
    for number, image_id in enumerate(ids):
        indexing_service.index_image(picture(number + 2), image_id)
    indexing_service.save_index("./data/index")

    search_service = NearestNeighborSearch(index=index)
    results = search_service.search_by_id(image_id="photo_001", query_id="search_001", k=10, exclude_query=True)
    reranked = Reranker().rerank(results=results, normalize=True, min_score=0.3, top_k=5)
    for result in reranked.results:
        print(f"{result.rank}. {result.image_id}: {result.score:.4f}")

    result = evaluate_model(
        search_service=search_service,
        dataset_path="evaluation_data.json",
        k_values=[1, 5, 10, 20],
        output_path="results.json",
    )
    print(result.summary())

    assert len(results) == 10
    assert "photo_001" not in results.image_ids
    assert [one.rank for one in reranked.results] == [1, 2, 3, 4, 5]
    assert all(one.score == pytest.approx(1 - one.distance / 2) for one in reranked.results)
    printed = capsys.readouterr().out
    assert f"1. {results.image_ids[0]}: {reranked.results[0].score:.4f}\n" in printed
    assert "Evaluation Results\n=================\nQueries: 1\nRecall@1: " in printed
    assert json.loads((tmp_path / "results.json").read_text())["run"]["k_values"] == [1, 5, 10, 20]
    assert (tmp_path / "data" / "images" / "photo_001.png").exists()
    assert len(VectorIndex.load("./data/index")) == 12


def test_encoded_bytes_are_stored_as_they_are_and_files_are_taken_by_path(indexing_service, tmp_path):
    data = jpeg(3)
    assert indexing_service.index_image(data, "from-bytes").format == "JPEG"
    assert indexing_service.storage.get("from-bytes.jpeg") == data
    (tmp_path / "x.jpg").write_bytes(data)
    indexing_service.index_image(tmp_path / "x.jpg", "folder/from-path.jpg")
    assert indexing_service.storage.get("folder/from-path.jpg") == data
    np.testing.assert_array_equal(
        indexing_service.index.reconstruct("from-bytes"), indexing_service.index.reconstruct("folder/from-path.jpg")
    )
    with pytest.raises(ImageNotFound):
        indexing_service.index_image(tmp_path / "none.jpg", "none")


def test_a_bad_picture_among_many_fails_alone(indexing_service):
    images = [("a", jpeg(1)), ("broken", jpeg(2)[:300]), ("b", picture(3))]
    report = indexing_service.index_images(images)
    assert [metadata.image_id for metadata in report.indexed] == ["a", "b"]
    assert isinstance(report.failures["broken"], CorruptImage)
    with pytest.raises(CorruptImage):
        indexing_service.index_image(jpeg(2)[:300], "broken")
    assert sorted(indexing_service.index.ids()) == ["a", "b"]


def test_what_is_in_the_storage_already_is_indexed_under_its_keys(indexing_service):
    for number in range(3):
        indexing_service.storage.put(f"cats/{number}.jpg", jpeg(number))
    indexing_service.storage.put("cats/notes.txt", b"not an image")
    indexing_service.storage.put("cats/broken.jpg", b"nonsense")
    report = indexing_service.index_storage("cats/")
    assert sorted(indexing_service.index.ids()) == ["cats/0.jpg", "cats/1.jpg", "cats/2.jpg"]
    assert list(report.failures) == ["cats/broken.jpg"]
    indexing_service.remove_image("cats/0.jpg")
    assert "cats/0.jpg" not in indexing_service.index
    assert indexing_service.storage.exists("cats/0.jpg")


def test_attributes_reach_the_results_and_filter_them(indexing_service):
    images = [(str(number), picture(number)) for number in range(6)]
    attributes = {str(number): {"parity": "even" if number % 2 == 0 else "odd"} for number in range(6)}
    indexing_service.index_images(images, attributes=attributes)
    search = NearestNeighborSearch(index=indexing_service.index, metadata=indexing_service.metadata_of)
    page = search.search_page(
        indexing_service.index.reconstruct("0"),
        RerankOptions(top_k=10, filter=Equals(key="parity", value="odd")),
    )
    assert sorted(page.image_ids) == ["1", "3", "5"]
    assert page.results[0].attributes == {"parity": "odd"}


def test_a_saved_index_is_carried_on_with_its_metadata(indexing_service, embedding_service, tmp_path):
    indexing_service.index_image(picture(1), "a", {"label": "x"})
    indexing_service.save_index(tmp_path / "index")
    again = IndexingService.load_index(tmp_path / "index", indexing_service.storage, embedding_service)
    again.index_image(picture(2), "b")
    assert sorted(again.index.ids()) == ["a", "b"]
    assert again.metadata["a"].attributes == {"label": "x"}
    assert again.metadata["a"].width == 96


def test_vectors_of_two_models_never_meet_in_one_index(indexing_service, tmp_path):
    indexing_service.index_image(picture(1), "a")
    indexing_service.save_index(tmp_path / "index")
    baseline = EmbeddingService("baseline")
    with pytest.raises(ModelMismatch):
        IndexingService.load_index(tmp_path / "index", indexing_service.storage, baseline)
    with pytest.raises(ModelMismatch):
        IndexingService(indexing_service.storage, baseline, VectorIndex(dimension=64))


def test_an_index_without_metadata_is_refused_by_name(indexing_service, embedding_service, tmp_path):
    indexing_service.index_image(picture(1), "a")
    indexing_service.index.save(tmp_path / "bare")
    with pytest.raises(IndexFileError):
        IndexingService.load_index(tmp_path / "bare", indexing_service.storage, embedding_service)


def test_two_ids_never_share_one_stored_file(indexing_service):
    indexing_service.index_image(jpeg(1), "cat")
    with pytest.raises(IdTaken, match=r"cat\.jpeg"):
        indexing_service.index_image(jpeg(2), "cat.jpeg")
    assert indexing_service.storage.get("cat.jpeg") == jpeg(1)


def test_an_unusable_id_or_attribute_fails_alone(indexing_service):
    report = indexing_service.index_images(
        [("", jpeg(1)), ("bad", jpeg(2)), ("good", jpeg(3))], attributes={"bad": {"number": 2**60}}
    )
    assert [metadata.image_id for metadata in report.indexed] == ["good"]
    assert {image_id: error.reason for image_id, error in report.failures.items()} == {
        "": "invalid_id",
        "bad": "invalid_attribute",
    }


@pytest.mark.parametrize("mode", ["CMYK", "F", "RGBA", "P"])
def test_a_pil_picture_is_stored_as_it_is_embedded(indexing_service, tmp_path, mode):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(4).save(tmp_path / "turned.jpg", exif=exif)
    with Image.open(tmp_path / "turned.jpg") as turned:
        metadata = indexing_service.index_image(turned, "turned")
    assert (metadata.width, metadata.height) == (72, 96)
    stored = indexing_service.embedding_service.embed_image(indexing_service.storage.get("turned.png"))
    np.testing.assert_array_equal(stored, indexing_service.index.reconstruct("turned"))
    assert indexing_service.index_image(picture(5).convert(mode), f"mode-{mode}").format == "PNG"

"""Finished batches as messages: what goes in comes out, and nothing else is let in."""

import msgpack
import numpy as np
import pytest

from storage.catalog import BatchResult, ImageFailure, IndexBatch, IndexedImage
from storage.records import ImageMetadata
from workers import wire
from workers.errors import WireError
from workers.wire import pack, unpack

SEED = 7


def result_of(count: int = 3, dimension: int = 8, **batch) -> BatchResult:
    random = np.random.default_rng(SEED)
    upserts = [
        IndexedImage(
            ImageMetadata(
                image_id=f"Ünïcode/{number}.jpg",
                source_uri=f"file:///photos/{number}.jpg",
                etag=str(number),
                sha256="ab" * 32,
                width=640,
                height=480,
                format="JPEG",
                bytes=1234 + number,
                attributes={"year": 2024, "price": 1.5, "tags": ["a", "b"], "new": True, "none": None},
            ),
            random.standard_normal(dimension).astype(np.float32),
        )
        for number in range(count)
    ]
    counts = {"indexed": count, "failed": len(batch.get("failures", ()))}
    return BatchResult(5, 2, IndexBatch(upserts=upserts, **batch), counts)


def header_of(result: BatchResult) -> dict:
    return msgpack.unpackb(pack(result)[b"header"])


def with_header(**changes) -> dict[bytes, bytes]:
    fields = pack(result_of())
    return {**fields, b"header": msgpack.packb({**msgpack.unpackb(fields[b"header"]), **changes})}


def test_a_batch_comes_out_as_it_went_in():
    failure = ImageFailure("bad.jpg", "file:///bad.jpg", "corrupt", "cut off", "e1", {"label": "cat", "tags": ["a"]})
    refreshed = ImageMetadata(image_id="r", attributes={"a": 1})
    sent = result_of(failures=[failure], refreshed=[refreshed], removed=["gone"])
    got = unpack(pack(sent))
    assert (got.batch_id, got.generation_id, dict(got.counts)) == (5, 2, dict(sent.counts))
    assert [image.metadata for image in got.batch.upserts] == [image.metadata for image in sent.batch.upserts]
    assert list(got.batch.failures) == [failure]
    assert list(got.batch.refreshed) == [refreshed]
    assert list(got.batch.removed) == ["gone"]
    for one, other in zip(got.batch.upserts, sent.batch.upserts, strict=True):
        assert one.vector.dtype == np.float32
        np.testing.assert_array_equal(one.vector, other.vector)


def test_a_failure_without_attributes_is_a_message_for_the_version_before():
    failure = ImageFailure("bad.jpg", "file:///bad.jpg", "corrupt", "cut off", "e1")
    assert "attributes" not in header_of(result_of(failures=[failure]))["failures"][0]
    assert unpack(pack(result_of(failures=[failure]))).batch.failures[0].attributes is None


def test_an_empty_batch_is_a_message_too():
    got = unpack(pack(BatchResult(1, 1, IndexBatch(), {"unchanged": 3})))
    assert (list(got.batch.upserts), dict(got.counts)) == ([], {"unchanged": 3})


def test_the_vectors_are_raw_little_endian_rows():
    sent = result_of()
    rows = np.stack([image.vector for image in sent.batch.upserts])
    assert pack(sent)[b"vectors"] == rows.astype("<f4").tobytes()


def test_the_timestamps_are_left_to_the_catalog():
    assert "created_at" not in header_of(result_of())["upserts"][0]


def test_text_that_is_not_utf8_survives():
    failure = ImageFailure("odd\udcff", "", "corrupt", "")
    assert unpack(pack(result_of(failures=[failure]))).batch.failures[0].image_id == "odd\udcff"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {b"v": b"2", b"header": b"", b"vectors": b""},
        {b"v": b"1", b"header": b"\x80"},
        {b"v": b"1", b"header": b"", b"vectors": b""},
        {b"v": b"1", b"header": b"\xc1", b"vectors": b""},
        {b"v": b"1", b"header": b"\x93\x01", b"vectors": b""},
        {b"v": b"1", b"header": b"\x91" * 100_000, b"vectors": b""},
        {b"v": b"1", b"header": b"\x01", b"vectors": b""},
        {b"v": b"1", b"header": b"\x81\x91\x01\x02", b"vectors": b""},
    ],
    ids=["empty", "version", "no vectors", "no header", "reserved", "cut off", "deep", "no map", "list as key"],
)
def test_a_broken_message_is_refused(fields):
    with pytest.raises(WireError):
        unpack(fields)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dimension": 9}, "not 3 vectors of 9"),
        ({"dimension": 0}, "not 3 vectors of 0"),
        ({"dimension": -8}, "dimension"),
        ({"batch_id": "5"}, "batch_id"),
        ({"surprise": 1}, "surprise"),
        ({"counts": {"indexed": -1}}, "counts.indexed"),
        ({"upserts": [{"image_id": ""}]}, "upserts.0.image_id"),
        ({"removed": [1]}, "removed.0"),
        ({"failures": [{"image_id": "a"}]}, "failures.0"),
    ],
)
def test_a_header_that_we_cannot_have_written_is_refused_by_name(changes, message):
    with pytest.raises(WireError, match=message):
        unpack(with_header(**changes))


def test_every_cut_and_every_flipped_header_byte_is_refused_or_read_but_never_crashes():
    fields = pack(result_of(count=1, dimension=4))
    random = np.random.default_rng(SEED)
    print("seed", SEED)
    for position in range(len(fields[b"header"])):
        broken = bytearray(fields[b"header"])
        broken[position] ^= int(random.integers(1, 256))
        for header in (bytes(broken), fields[b"header"][:position]):
            try:
                unpack({**fields, b"header": header})
            except WireError:
                continue


def test_what_is_too_large_is_refused_at_both_ends(monkeypatch):
    fields = pack(result_of())
    monkeypatch.setattr(wire, "MAX_VECTOR_BYTES", 95)
    with pytest.raises(WireError, match="smaller batches"):
        pack(result_of())
    with pytest.raises(WireError, match="too large"):
        unpack(fields)


@pytest.mark.parametrize(
    "batch",
    [
        IndexBatch(upserts=[IndexedImage(ImageMetadata(image_id="a"), np.zeros(n, np.float32)) for n in (2, 3)]),
        IndexBatch(upserts=[IndexedImage(ImageMetadata(image_id="a"), np.zeros((2, 2), np.float32))]),
        IndexBatch(refreshed=[ImageMetadata(image_id="a", attributes={"big": 2**70})]),
    ],
    ids=["two dimensions", "a matrix", "a number beyond 64 bits"],
)
def test_what_cannot_be_sent_is_refused_before_sending(batch):
    with pytest.raises(WireError):
        pack(BatchResult(1, 1, batch, {}))

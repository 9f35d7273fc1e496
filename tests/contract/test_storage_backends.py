"""What every image storage promises, checked on a local folder and on S3 over HTTP."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from storage.errors import ImageNotFound, ImageTooLarge, InvalidKey
from storage.images.backend import StorageBackend
from storage.images.local import LocalStorage
from storage.images.locate import ImageReader, open_source, split_uri

MAX_BYTES = 100_000
ODD_KEYS = [
    "with space.jpg",
    "hash#mark.jpg",
    "question?mark.jpg",
    "percent%20sign%.jpg",
    "plus+and&amp.jpg",
    "quotes'\".jpg",
    "grüße/日本語 🐈.jpg",
    "café.jpg",  # decomposed, as macOS spells it
    "dots/..hidden/...jpg",
    "tilde~*[1]{2}|^`<>;,=@$!().jpg",
    "colon:and\u00a0nbsp\u2028.jpg",
    "tab\\x09character.jpg",  # the spelling of a name with a tab in it
    "back\\x5cslash.jpg",
]
NO_KEYS = [
    "",
    "/",
    "/etc/passwd",
    "..",
    "../secret.jpg",
    "cats/../../secret.jpg",
    "cats/..",
    "./tom.jpg",
    "cats/./tom.jpg",
    "cats//tom.jpg",
    "cats/",
    "..\\secret.jpg",
    "cats\\tom.jpg",
    "C:\\secret.jpg",
    "nul\0byte.jpg",
    "line\nbreak.jpg",
    "not-canonical\\x61.jpg",
    "cut-off\\x0",
    "surrogate\udcff.jpg",
]


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> StorageBackend:
    if request.param == "local":
        return LocalStorage(tmp_path / "photos", max_bytes=MAX_BYTES)
    from storage.images.s3 import S3Storage

    bucket = request.getfixturevalue("s3_bucket")
    # one client for all, because boto3 takes 0.3 s to make one; S3Storage's own is tested with S3Storage
    return S3Storage(bucket.name, "photos", max_bytes=MAX_BYTES, client=bucket.client)


def _keys(objects: Iterator[Any]) -> list[str]:
    return [stored.key for stored in objects]


def test_what_was_put_is_got_back(storage: StorageBackend, make_jpeg: Callable[..., bytes]) -> None:
    storage.put("cats/tom.jpg", make_jpeg(1))
    assert storage.get("cats/tom.jpg") == make_jpeg(1)


def test_an_empty_image_is_stored_as_such(storage: StorageBackend) -> None:
    storage.put("empty.jpg", b"")
    assert storage.get("empty.jpg") == b""
    assert storage.exists("empty.jpg")


def test_put_replaces_what_was_there(storage: StorageBackend) -> None:
    storage.put("tom.jpg", b"old and longer")
    storage.put("tom.jpg", b"new")
    assert storage.get("tom.jpg") == b"new"
    assert _keys(storage.list()) == ["tom.jpg"]


def test_put_stat_and_list_describe_an_object_alike(storage: StorageBackend) -> None:
    put = storage.put("cats/tom.jpg", b"tom")
    (listed,) = storage.list()
    assert storage.stat("cats/tom.jpg") == listed
    assert (put.key, put.uri, put.etag, put.size_bytes) == (
        listed.key,
        listed.uri,
        listed.etag,
        listed.size_bytes,
    )
    assert listed.size_bytes == 3
    assert listed.uri == storage.uri("cats/tom.jpg")
    assert abs(listed.modified_at - time.time()) < 60
    assert abs(put.modified_at - time.time()) < 60


def test_the_etag_changes_with_content_of_the_same_size(storage: StorageBackend) -> None:
    """Also when both versions are written within one tick of the clock."""
    etags = [storage.put("tom.jpg", bytes([value])).etag for value in range(20)]
    assert len(set(etags)) == 20
    assert storage.stat("tom.jpg").etag == etags[-1]


def test_the_etag_stays_when_nothing_changes(storage: StorageBackend) -> None:
    storage.put("tom.jpg", b"tom")
    storage.get("tom.jpg")
    assert next(storage.list()).etag == next(storage.list()).etag


def test_exists_tells_images_from_folders_and_nothing(storage: StorageBackend) -> None:
    storage.put("cats/tom.jpg", b"tom")
    assert storage.exists("cats/tom.jpg")
    assert not storage.exists("cats")
    assert not storage.exists("cats/jerry.jpg")
    assert not storage.exists("cats/tom.jpg/inside")


@pytest.mark.parametrize("key", ["absent.jpg", "cats", "cats/absent.jpg", "cats/tom.jpg/inside"])
@pytest.mark.parametrize("verb", ["get", "stat", "delete"])
def test_what_is_not_there_is_image_not_found(storage: StorageBackend, verb: str, key: str) -> None:
    storage.put("cats/tom.jpg", b"tom")
    with pytest.raises(ImageNotFound):
        getattr(storage, verb)(key)


def test_a_deleted_image_is_gone(storage: StorageBackend) -> None:
    storage.put("cats/tom.jpg", b"tom")
    storage.put("cats/jerry.jpg", b"jerry")
    storage.delete("cats/tom.jpg")
    assert not storage.exists("cats/tom.jpg")
    assert _keys(storage.list()) == ["cats/jerry.jpg"]


@pytest.mark.parametrize("verb", ["get", "stat", "exists", "delete", "put", "uri"])
def test_every_verb_refuses_what_is_no_key(storage: StorageBackend, verb: str) -> None:
    for key in NO_KEYS if verb != "uri" else NO_KEYS[1:]:
        arguments = (key, b"data") if verb == "put" else (key,)
        with pytest.raises(InvalidKey):
            pytest.fail(f"{verb} took {key!r}: {getattr(storage, verb)(*arguments)!r}")
    assert list(storage.list()) == []


@pytest.mark.parametrize("prefix", ["/", "../", "cats/../", "cats//", "./", "/etc"])
def test_a_prefix_that_no_key_has_is_refused_at_once(storage: StorageBackend, prefix: str) -> None:
    with pytest.raises(InvalidKey):
        storage.list(prefix)


def test_a_listing_is_in_key_order_over_folders(storage: StorageBackend) -> None:
    """`a-b` and `a.jpg` sort before `a/b`, although the folder `a` comes first among the names."""
    keys = [
        "a-b.jpg",
        "a.jpg",
        "a/b.jpg",
        "a/b/c.jpg",
        "a0.jpg",
        "aa/z.jpg",
        "B.jpg",
        "ä.jpg",
        "z.jpg",
        "🐈.jpg",
    ]
    for key in random.Random(7).sample(keys, len(keys)):
        storage.put(key, key.encode())
    assert _keys(storage.list()) == sorted(keys)


def test_seeded_random_trees_are_listed_completely_and_in_order(storage: StorageBackend) -> None:
    print("seed 11")
    generator = random.Random(11)
    keys = {
        "/".join("".join(generator.choices("ab-.0 ", k=2)) + "x" for _level in range(generator.randint(1, 4))) + ".jpg"
        for _key in range(60)
    }
    for key in keys:
        storage.put(key, b"")
    assert _keys(storage.list()) == sorted(keys)
    for prefix in ("a", "aax/", "b-x", "-", "0", "zz"):
        assert _keys(storage.list(prefix)) == sorted(key for key in keys if key.startswith(prefix))


def test_a_prefix_selects_by_the_start_of_the_key(storage: StorageBackend) -> None:
    for key in ("cats-old/x.jpg", "cats.jpg", "cats/a.jpg", "cats/b/c.jpg", "dogs/a.jpg"):
        storage.put(key, b"")
    assert _keys(storage.list("cats")) == ["cats-old/x.jpg", "cats.jpg", "cats/a.jpg", "cats/b/c.jpg"]
    assert _keys(storage.list("cats/")) == ["cats/a.jpg", "cats/b/c.jpg"]
    assert _keys(storage.list("cats/b/c.jpg")) == ["cats/b/c.jpg"]
    assert _keys(storage.list("cats/b/c.jpg/")) == []
    assert _keys(storage.list("birds/")) == []


def test_an_empty_store_lists_nothing(storage: StorageBackend) -> None:
    assert list(storage.list()) == []


def test_images_of_exactly_the_cap_pass_and_one_byte_more_is_refused(storage: StorageBackend) -> None:
    storage.put("cap.jpg", bytes(MAX_BYTES))
    assert len(storage.get("cap.jpg")) == MAX_BYTES
    with pytest.raises(ImageTooLarge, match="100,000 bytes"):
        storage.put("more.jpg", bytes(MAX_BYTES + 1))
    assert not storage.exists("more.jpg")


@pytest.mark.parametrize("key", ODD_KEYS)
def test_keys_with_special_characters_make_the_round_trip(storage: StorageBackend, key: str) -> None:
    put = storage.put(key, key.encode())
    assert storage.get(key) == key.encode()
    assert storage.stat(key).key == key
    assert [(stored.key, stored.uri) for stored in storage.list()] == [(key, put.uri)]
    assert _keys(storage.list(key[:-1])) == [key]
    assert storage.exists(key)
    storage.delete(key)
    assert not storage.exists(key)


@pytest.mark.parametrize("key", ["cats/tom.jpg", *ODD_KEYS])
def test_an_address_lies_below_the_stores_own_and_gives_the_key_back(storage: StorageBackend, key: str) -> None:
    uri = storage.uri(key)
    assert uri.startswith(storage.uri(""))
    assert storage.uri("").endswith("/photos/")
    _store, whole_key = split_uri(uri)
    assert whole_key.endswith(f"photos/{key}")


def test_every_recorded_address_can_be_read_again(
    storage: StorageBackend, monkeypatch: pytest.MonkeyPatch, s3_endpoint: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    for key in ODD_KEYS:
        storage.put(key, key.encode())
    reader = ImageReader()
    assert [reader.read(stored.uri).decode() for stored in storage.list()] == sorted(ODD_KEYS)


def test_a_store_reopened_from_an_address_gives_the_same_addresses_and_etags(
    storage: StorageBackend, monkeypatch: pytest.MonkeyPatch, s3_endpoint: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    storage.put("grüße/100% tom.jpg", b"tom")
    (listed,) = storage.list()
    assert list(open_source(storage.uri("")).list()) == [listed]
    store, key = split_uri(listed.uri)
    again = open_source(store).stat(key)
    assert (again.uri, again.etag) == (listed.uri, listed.etag)


def test_threads_may_share_a_storage(storage: StorageBackend) -> None:
    def write_and_read(number: int) -> bytes:
        storage.put(f"{number % 3}/{number}.jpg", str(number).encode())
        return storage.get(f"{number % 3}/{number}.jpg")

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(write_and_read, range(40))) == [str(number).encode() for number in range(40)]
    assert len(_keys(storage.list())) == 40

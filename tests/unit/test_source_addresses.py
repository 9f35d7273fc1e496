from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from buckets import Bucket

from storage.errors import ImageNotFound, ImageTooLarge, InvalidKey, StorageError
from storage.images.file_uri import file_uri, path_of_file_uri
from storage.images.local import LocalStorage
from storage.images.locate import ImageReader, open_source, split_uri

ODD_FOLDERS = ["with space", "a#b?c", "100%", "%20", "grüße", "plus+&=;"]


@pytest.fixture
def s3_from_environment(s3_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """The bucket is found as users configure it: by AWS's own variables."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_bucket.endpoint_url)
    return s3_bucket


# --- opening a source


@pytest.mark.parametrize("kind", [Path, str, lambda path: path.as_uri(), lambda path: path.as_uri() + "/"])
def test_a_folder_opens_by_path_text_and_file_address(tmp_path: Path, kind: Callable[[Path], object]) -> None:
    (tmp_path / "tom.jpg").write_bytes(b"tom")
    assert open_source(kind(tmp_path)).get("tom.jpg") == b"tom"


@pytest.mark.parametrize("name", ODD_FOLDERS)
def test_folders_with_special_characters_open_by_path_and_by_address(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "tom.jpg").write_bytes(b"tom")
    for address in (folder, str(folder), folder.as_uri(), file_uri(folder)):
        assert open_source(address).exists("tom.jpg")


def test_a_missing_folder_is_not_made_but_an_error(tmp_path: Path) -> None:
    for address in (tmp_path / "absent", str(tmp_path / "absent"), (tmp_path / "absent").as_uri()):
        with pytest.raises(StorageError, match="check the path"):
            open_source(address)
    assert not (tmp_path / "absent").exists()


def test_a_single_file_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "tom.jpg").write_bytes(b"tom")
    with pytest.raises(StorageError, match="is no folder"):
        open_source(tmp_path / "tom.jpg")


def test_a_bucket_opens_with_and_without_a_prefix(s3_from_environment: Bucket) -> None:
    bucket = s3_from_environment
    bucket.client.put_object(Bucket=bucket.name, Key="my photos #1/100%25.jpg", Body=b"tom")
    assert [stored.key for stored in open_source(f"s3://{bucket.name}").list()] == ["my photos #1/100%25.jpg"]
    below = open_source(f"S3://{bucket.name}/my photos #1/")
    assert [stored.key for stored in below.list()] == ["100%25.jpg"]


def test_the_cap_on_bytes_is_handed_on(tmp_path: Path, s3_from_environment: Bucket) -> None:
    bucket = s3_from_environment
    (tmp_path / "big.jpg").write_bytes(bytes(11))
    bucket.client.put_object(Bucket=bucket.name, Key="big.jpg", Body=bytes(11))
    for address in (tmp_path, tmp_path.as_uri(), f"s3://{bucket.name}"):
        with pytest.raises(ImageTooLarge):
            open_source(address, max_bytes=10).get("big.jpg")


@pytest.mark.parametrize("address", ["http://example.org/photos", "gs://bucket", "s3://", "s3:///photos", ""])
def test_an_address_that_cannot_be_opened_says_what_can(address: str) -> None:
    with pytest.raises(StorageError, match="give a folder, a file:// address or s3://bucket/prefix"):
        open_source(address)


# --- recorded addresses


def test_a_file_address_splits_into_root_and_path(tmp_path: Path) -> None:
    store, key = split_uri(LocalStorage(tmp_path).uri("cats/tom & jerry.jpg"))
    assert store == Path(tmp_path.anchor).as_uri()
    assert key == "/".join([*tmp_path.parts[1:], "cats", "tom & jerry.jpg"])


def test_an_s3_address_splits_into_bucket_and_key() -> None:
    assert split_uri("s3://bucket/my photos/tom#1?.jpg") == ("s3://bucket", "my photos/tom#1?.jpg")


@pytest.mark.parametrize("uri", ["s3://bucket", "s3://bucket/", "file:///", "s3://bucket//a", "s3://b/../a"])
def test_an_address_that_names_no_image_is_an_invalid_key(uri: str) -> None:
    with pytest.raises(InvalidKey):
        split_uri(uri)


def test_the_store_of_a_picture_on_the_web_is_its_site() -> None:
    """Its query belongs to the key."""
    assert split_uri("HTTPS://Example.org:443/a/tom.jpg?size=1") == ("https://example.org", "a/tom.jpg?size=1")


@pytest.mark.parametrize("uri", ["", "tom.jpg", "/photos/tom.jpg", "ftp://example.org/tom.jpg"])
def test_other_text_is_no_recorded_address(uri: str) -> None:
    with pytest.raises(StorageError, match="begin with file://, s3:// or https://"):
        split_uri(uri)


def test_dots_in_a_file_address_do_not_climb(tmp_path: Path) -> None:
    uri = tmp_path.as_uri() + "/%2e%2e/secret.jpg"
    with pytest.raises(InvalidKey):
        ImageReader().read(uri)


# --- file:// spelling


@pytest.mark.parametrize("name", [*ODD_FOLDERS, "line\nbreak", "back\\slash", "not-utf8-\udcff"])
@pytest.mark.skipif(os.name == "nt", reason="names that Windows has not")
def test_every_path_comes_back_from_its_address(name: str) -> None:
    uri = file_uri(Path("/photos") / name)
    assert uri.isascii()
    assert uri.isprintable()
    assert path_of_file_uri(uri) == f"/photos/{name}"


def test_an_address_on_another_machine_says_so() -> None:
    with pytest.raises(StorageError, match="on the machine 'nas'"):
        path_of_file_uri("file://nas/photos", windows=False)
    assert path_of_file_uri("file://localhost/photos", windows=False) == "/photos"


def test_windows_addresses_give_drives_and_network_shares() -> None:
    assert path_of_file_uri("file:///C:/My%20Photos/tom.jpg", windows=True) == "C:/My Photos/tom.jpg"
    assert path_of_file_uri("file://nas/share/tom.jpg", windows=True) == "//nas/share/tom.jpg"


# --- reading


def test_images_of_several_stores_are_read_by_address(tmp_path: Path, s3_from_environment: Bucket) -> None:
    bucket = s3_from_environment
    bucket.client.put_object(Bucket=bucket.name, Key="cats/tom.jpg", Body=b"from s3")
    here, there = LocalStorage(tmp_path / "here"), LocalStorage(tmp_path / "there")
    reader = ImageReader()
    assert reader.read(here.put("tom.jpg", b"from here").uri) == b"from here"
    assert reader.read(there.put("tom.jpg", b"from there").uri) == b"from there"
    assert reader.read(f"s3://{bucket.name}/cats/tom.jpg") == b"from s3"


def test_a_link_inside_a_source_is_read_by_its_own_address(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.put("cats/tom.jpg", b"tom")
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "1.jpg").symlink_to("../cats/tom.jpg")
    assert ImageReader().read(storage.uri("best/1.jpg")) == b"tom"


def test_the_reader_raises_what_storage_raises(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    with pytest.raises(ImageNotFound):
        ImageReader().read(storage.uri("absent.jpg"))
    storage.put("big.jpg", bytes(11))
    with pytest.raises(ImageTooLarge):
        ImageReader(max_bytes=10).read(storage.uri("big.jpg"))


def test_threads_share_one_reader_and_each_store_is_opened_once(tmp_path: Path, s3_from_environment: Bucket) -> None:
    bucket = s3_from_environment
    storage = LocalStorage(tmp_path)
    uris = [storage.put(f"{number}.jpg", str(number).encode()).uri for number in range(20)]
    for number in range(20, 40):
        key = f"{number}.jpg"
        bucket.client.put_object(Bucket=bucket.name, Key=key, Body=str(number).encode())
        uris.append(f"s3://{bucket.name}/{key}")
    reader = ImageReader()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(reader.read, uris)) == [str(number).encode() for number in range(40)]
    assert len(reader._backends) == 2


def test_the_shared_photos_are_all_listed_and_read(small_demo: Path) -> None:
    source = open_source(small_demo / "images")
    listed = list(source.list())
    assert len(listed) == 440
    assert [stored.key for stored in listed] == sorted(stored.key for stored in listed)
    reader = ImageReader()
    assert all(len(reader.read(stored.uri)) == stored.size_bytes for stored in listed)

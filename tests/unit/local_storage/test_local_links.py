"""Links below the root: none leads out of it, and each image is listed once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from local_verbs import VERBS, call, keys_of

from storage.errors import (
    ImageNotFound,
    InvalidKey,
)
from storage.images.local import LocalStorage


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    path = tmp_path / "outside"
    path.mkdir()
    (path / "secret.jpg").write_bytes(b"secret")
    return path


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("key", ["link.jpg", "folder/secret.jpg", "folder/new.jpg", "chain.jpg"])
def test_no_verb_follows_a_link_out_of_the_root(
    storage: LocalStorage, root: Path, outside: Path, verb: str, key: str
) -> None:
    (root / "link.jpg").symlink_to(outside / "secret.jpg")
    (root / "folder").symlink_to(outside)
    (root / "chain.jpg").symlink_to("link.jpg")
    with pytest.raises(InvalidKey, match="leads out of"):
        call(storage, verb, key)
    assert [path.name for path in outside.iterdir()] == ["secret.jpg"]
    assert (outside / "secret.jpg").read_bytes() == b"secret"


def test_a_sibling_whose_name_begins_like_the_root_is_outside(storage: LocalStorage, root: Path) -> None:
    sibling = root.with_name("photos-private")
    sibling.mkdir()
    (sibling / "x.jpg").write_bytes(b"x")
    (root / "link.jpg").symlink_to(sibling / "x.jpg")
    with pytest.raises(InvalidKey):
        storage.get("link.jpg")


def test_a_listing_leaves_out_links_that_lead_out_and_logs_them(
    storage: LocalStorage, root: Path, outside: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage.put("tom.jpg", b"tom")
    (root / "link.jpg").symlink_to(outside / "secret.jpg")
    (root / "folder").symlink_to(outside)
    assert keys_of(storage) == ["tom.jpg"]
    assert "link.jpg" in caplog.text
    assert "folder" in caplog.text


def test_a_link_inside_the_root_is_an_image_of_its_own(storage: LocalStorage, root: Path) -> None:
    storage.put("cats/tom.jpg", b"tom")
    (root / "best.jpg").symlink_to("cats/tom.jpg")
    assert keys_of(storage) == ["best.jpg", "cats/tom.jpg"]
    assert storage.exists("best.jpg")
    assert storage.get("best.jpg") == b"tom"
    assert storage.stat("best.jpg").etag == storage.stat("cats/tom.jpg").etag
    storage.delete("best.jpg")
    assert keys_of(storage) == ["cats/tom.jpg"]


def test_put_on_a_link_replaces_the_link_alone(storage: LocalStorage, root: Path) -> None:
    storage.put("cats/tom.jpg", b"tom")
    (root / "best.jpg").symlink_to("cats/tom.jpg")
    storage.put("best.jpg", b"best")
    assert storage.get("cats/tom.jpg") == b"tom"
    assert storage.get("best.jpg") == b"best"


def test_linked_folders_inside_the_root_are_readable_and_listed_once(storage: LocalStorage, root: Path) -> None:
    storage.put("cats/tom.jpg", b"tom")
    (root / "kittens").symlink_to("cats")
    (root / "cats" / "circle").symlink_to("..")
    assert storage.get("kittens/tom.jpg") == b"tom"
    assert storage.get("cats/circle/cats/tom.jpg") == b"tom"
    assert keys_of(storage) == ["cats/tom.jpg"]


def test_links_that_lead_nowhere_or_in_a_circle_are_no_images(storage: LocalStorage, root: Path) -> None:
    (root / "broken.jpg").symlink_to("absent.jpg")
    (root / "circle.jpg").symlink_to("circle.jpg")
    for key in ("broken.jpg", "circle.jpg"):
        assert not storage.exists(key)
        with pytest.raises(ImageNotFound):
            storage.get(key)
    assert keys_of(storage) == []


def test_a_folder_that_is_a_link_in_disguise_is_left_out(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As Windows junctions are: they call themselves folders, and only their real path tells."""
    storage.put("junction/tom.jpg", b"tom")
    real = os.path.realpath
    monkeypatch.setattr(os.path, "realpath", lambda path: real(str(path).replace("junction", "elsewhere")))
    assert keys_of(storage) == []
    assert "junction" in caplog.text

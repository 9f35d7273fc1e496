"""Models by hub name: downloaded once from a hub (a small server here), then used without asking it again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest
from checkpoints import save_tiny_clip

from pipeline.embedders.clip import ClipEmbedder
from pipeline.errors import ModelUnavailable, UnsupportedModel

NAME = "someone/tiny-clip"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
DEAD_ADDRESS = "http://127.0.0.1:9"  # nothing answers at port 9 (discard)


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's HTTP interface that finding and downloading one model uses."""

    folder: ClassVar[Path]
    asked: ClassVar[list[str]]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        self.asked.append(path)
        files = {file.name: file.read_bytes() for file in self.folder.iterdir()}
        if path in (
            f"/api/models/{NAME}",
            *(f"/api/models/{NAME}/revision/{name}" for name in ("main", COMMIT)),
        ):
            siblings = [{"rfilename": name} for name in files]
            self._answer(json.dumps({"id": NAME, "sha": COMMIT, "siblings": siblings}).encode())
        elif path == f"/api/models/{NAME}/tree/{COMMIT}":
            tree = [{"type": "file", "path": name, "size": len(data), "oid": "0"} for name, data in files.items()]
            self._answer(json.dumps(tree).encode())
        elif path.startswith(f"/{NAME}/resolve/{COMMIT}/") and path.rsplit("/", 1)[1] in files:
            self._answer(files[path.rsplit("/", 1)[1]])
        else:
            self.send_response(404)
            missing = "RevisionNotFound" if path.startswith(f"/api/models/{NAME}/revision/") else "RepoNotFound"
            self.send_header("X-Error-Code", missing)
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


def point_hub_at(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT and HF_HUB_CACHE do, which the hub's client reads only when it is imported."""
    constants = "huggingface_hub.constants"
    monkeypatch.setattr(f"{constants}.ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """A hub with one model, and an empty local cache."""
    Hub.folder, Hub.asked = save_tiny_clip(tmp_path / "model"), []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    point_hub_at(f"http://127.0.0.1:{server.server_port}", tmp_path, monkeypatch)
    yield Hub
    server.shutdown()
    server.server_close()


@pytest.fixture
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No hub in reach, and an empty local cache."""
    point_hub_at(DEAD_ADDRESS, tmp_path, monkeypatch)


def test_a_model_is_downloaded_once_and_then_needs_no_hub(
    hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (hub.folder / "pytorch_model.bin").write_bytes(b"the same weights once more")
    (hub.folder / "README.md").write_text("text")
    first = ClipEmbedder.load(NAME, device="cpu").identity
    assert (first.name, first.revision, first.dimension) == (NAME, COMMIT, 24)
    assert not [path for path in hub.asked if path.endswith((".bin", ".md"))]
    hub.asked.clear()
    point_hub_at(DEAD_ADDRESS, tmp_path, monkeypatch)
    assert ClipEmbedder.load(NAME, device="cpu").identity == first
    assert not hub.asked


def test_a_revision_can_be_named(hub: type[Hub]) -> None:
    assert ClipEmbedder.load(NAME, revision=COMMIT, device="cpu").identity.revision == COMMIT
    with pytest.raises(ModelUnavailable, match="at other"):
        ClipEmbedder.load(NAME, revision="other", device="cpu")


def test_a_download_cut_short_is_taken_up_again(hub: type[Hub], tmp_path: Path) -> None:
    ClipEmbedder.load(NAME, device="cpu")
    snapshot = tmp_path / "cache" / "models--someone--tiny-clip" / "snapshots" / COMMIT
    (snapshot / "model.safetensors").unlink()
    assert ClipEmbedder.load(NAME, device="cpu").identity.revision == COMMIT
    assert (snapshot / "model.safetensors").is_file()


def test_a_name_the_hub_does_not_know_says_so(hub: type[Hub]) -> None:
    with pytest.raises(ModelUnavailable, match=r"no public model 'someone/else'.*Choices"):
        ClipEmbedder.load("someone/else")


def test_a_model_with_pickled_weights_only_is_refused(hub: type[Hub]) -> None:
    (hub.folder / "model.safetensors").rename(hub.folder / "pytorch_model.bin")
    with pytest.raises(UnsupportedModel, match=r"no model\.safetensors"):
        ClipEmbedder.load(NAME)


def test_an_unreachable_hub_is_told_with_the_choices(no_hub: None) -> None:
    with pytest.raises(ModelUnavailable, match="cannot be reached") as caught:
        ClipEmbedder.load()
    message = str(caught.value)
    assert "openai/clip-vit-base-patch32" in message
    assert all(choice in message for choice in ("(1) connect", "(2) Copy a checkpoint", "(3) Use the model `baseline`"))


def test_a_pinned_revision_that_the_hub_does_not_have_gives_way_to_its_main_branch(
    hub: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.embedders.checkpoint._PINNED_REVISIONS", {NAME: "f" * 40})
    assert ClipEmbedder.load(NAME, device="cpu").identity.revision == COMMIT

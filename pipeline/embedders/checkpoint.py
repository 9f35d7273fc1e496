"""Finding a model's files: a local folder, the hub's local cache, then the hub. Opens no weights.

Only safetensors weights are taken, because unpickling a `pytorch_model.bin` runs whatever code it holds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import ModelUnavailable, UnsupportedModel

_WEIGHTS, _WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
_WANTED_FILES = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "spiece.model",
    _WEIGHTS,
    _WEIGHTS_INDEX,
    "model-*-of-*.safetensors",
)  # not everything: many repositories hold the same weights in four more formats
_HUB_TIMEOUT_SECONDS = 10  # for the first answer; downloads themselves may take long

# `main` of this repository holds pickled weights only. This commit of a pull request by the hub's own bot adds
# the same weights as safetensors; it is what transformers itself finds for this model, by a search.
_PINNED_REVISIONS = {"openai/clip-vit-base-patch32": "c237dc49a33fc61debc9276459120b7eac67e7ef"}


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on this machine; `revision` is the hub's commit, or "local"."""

    name: str
    revision: str
    folder: Path
    config: dict[str, Any]
    weight_files: tuple[Path, ...]

    @property
    def tokenizer_files(self) -> tuple[Path, ...]:
        """The files that decide how a text becomes tokens. Raises UnsupportedModel when there are none.

        Asked before loading a tokenizer, because transformers 5 makes an empty one where files are missing.
        """
        for names in (("tokenizer.json",), ("spiece.model",), ("vocab.json", "merges.txt")):
            files = tuple(self.folder / name for name in names)
            if all(file.is_file() for file in files):
                return files
        raise UnsupportedModel(
            f"{self.name} has no tokenizer: no tokenizer.json, no spiece.model, no vocab.json with merges.txt"
        )


def find_checkpoint(name: str, revision: str | None = None) -> Checkpoint:
    """Find the files of a folder or hub name, downloading them when they are not in the hub's local cache.

    What is cached is used without asking the hub, so that a model stays the same until its cache is cleared.
    Raises ModelUnavailable when it is neither here nor to be had, UnsupportedModel when it cannot be used.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return read_checkpoint(folder, name=canonical_name(name), revision="local")
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or "\\" in name:
        raise ModelUnavailable(f"there is no folder {name}. {_choices(name)}")
    pinned = _PINNED_REVISIONS.get(name)
    revisions: list[str | None] = [revision] if revision or not pinned else [pinned, None]
    cached = (found for wanted in revisions if (found := _cached_snapshot(name, wanted)))
    folder = next(cached, None) or _download_snapshot(name, revisions)
    return read_checkpoint(folder, name=name, revision=folder.name)  # a snapshot's folder is named by its commit


def canonical_name(name: str) -> str:
    """The name that a model's identity records: the full path of a folder, a hub name as it is."""
    folder = Path(name).expanduser()
    return str(folder.resolve()) if folder.is_dir() else name


def read_checkpoint(folder: Path, *, name: str, revision: str) -> Checkpoint:
    """Check that the folder holds a configuration and safetensors weights. Raises UnsupportedModel."""
    config = _read_json(folder / "config.json")
    return Checkpoint(name, revision, folder, config, _weight_files(folder))


def _weight_files(folder: Path) -> tuple[Path, ...]:
    if (folder / _WEIGHTS).is_file():
        return (folder / _WEIGHTS,)
    if not (folder / _WEIGHTS_INDEX).is_file():
        others = sorted(path.name for path in folder.glob("*.bin"))
        raise UnsupportedModel(
            f"{folder} has no {_WEIGHTS}"
            + (f", only {', '.join(others)}, which is refused because loading it can run code" if others else "")
            + ". Convert the weights to safetensors, or name a revision that has them"
        )
    shards = sorted(set(_read_json(folder / _WEIGHTS_INDEX).get("weight_map", {}).values()))
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing or not shards:
        raise UnsupportedModel(f"{folder} is incomplete: {', '.join(missing) or 'no weights'} missing")
    return tuple(folder / shard for shard in shards)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UnsupportedModel(f"{path.parent} has no {path.name}: it is no complete checkpoint") from error
    except ValueError as error:
        raise UnsupportedModel(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise UnsupportedModel(f"{path} is no JSON object")
    return content


def _cached_snapshot(name: str, revision: str | None) -> Path | None:
    """Return the snapshot in the hub's local cache if it is there and complete; asks no network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(
            snapshot_download(name, revision=revision, local_files_only=True, allow_patterns=list(_WANTED_FILES))
        )
        read_checkpoint(folder, name=name, revision=folder.name)
    except (LocalEntryNotFoundError, UnsupportedModel):
        return None  # an interrupted download, or files that another program fetched one by one
    except HFValidationError as error:
        raise ModelUnavailable(f"{name!r} is neither a folder nor a hub name. {_choices(name)}") from error
    return folder


def _download_snapshot(name: str, revisions: list[str | None]) -> Path:
    """Download the first of these revisions that the hub has (None: its main branch)."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    revision, *others = revisions
    try:
        # The question comes first: without a network it fails at once, where a download tries for long.
        HfApi().model_info(name, revision=revision, timeout=_HUB_TIMEOUT_SECONDS)
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(_WANTED_FILES)))
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        if others and isinstance(error, RevisionNotFoundError):
            return _download_snapshot(name, others)
        raise ModelUnavailable(
            f"the hub has no public model {name!r}{f' at {revision}' if revision else ''}. {_choices(name)}"
        ) from error
    except (OSError, _hub_http_error()) as error:
        raise ModelUnavailable(
            f"{name} is not on this machine, and the Hugging Face hub cannot be reached ({error}). {_choices(name)}"
        ) from error


def _hub_http_error() -> type[Exception]:
    """The HTTP client's root error. The hub's package has changed clients twice, but keeps this name for it."""
    import huggingface_hub.errors

    error: type[Exception] = vars(huggingface_hub.errors)["HTTPError"]
    return error


def _choices(name: str) -> str:
    return (
        "Choices: (1) connect to the internet and try again; HF_ENDPOINT names a mirror, and HF_HUB_OFFLINE "
        "must not be set. (2) Copy a checkpoint folder here (config.json, model.safetensors, "
        "preprocessor_config.json, tokenizer.json) and give its path as the model instead of "
        f"{name!r}. (3) Use the model `baseline`: it needs no download, but finds by colour and shape only and "
        "knows no text."
    )

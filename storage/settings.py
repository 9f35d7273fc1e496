"""The one settings class, and the only file that reads the environment.

Precedence: command-line flag, then `VISUAL_SEARCH_*` variable, then the TOML file, then the default here.
Credentials for S3 are boto3's own affair (AWS_* variables, ~/.aws, instance roles) and never pass through here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from platformdirs import user_data_path
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from storage.errors import SettingsError
from storage.images.backend import DEFAULT_MAX_IMAGE_BYTES

DEFAULT_MODEL = "openai/clip-vit-base-patch32"
DEFAULT_MAX_IMAGE_PIXELS = 200_000_000  # medium-format cameras make 150 Mpx; 200 Mpx is 600 MB once decoded
_MAX_FETCH_THREADS = 16  # beyond it, more threads only wait for the same disk


def _default_fetch_threads() -> int:
    return min(_MAX_FETCH_THREADS, (os.cpu_count() or 1) + 4)


class Settings(BaseSettings):
    """Everything that can be configured; each field is documented in docs/configuration.md from here."""

    model_config = SettingsConfigDict(env_prefix="VISUAL_SEARCH_", extra="forbid", validate_default=True)

    data_dir: Path = Field(
        default_factory=lambda: user_data_path("visual-search", appauthor=False),
        description="Folder that holds the catalog (SQLite: images, vectors, failures). One folder, one truth.",
    )
    collection: str = Field(
        default="default", description="Collection used when a command names none: a-z, 0-9, - and _."
    )
    model: str = Field(
        default=DEFAULT_MODEL,
        description="Model for a new collection: a Hugging Face hub name, a folder with a checkpoint, or "
        "`baseline`. A collection that holds vectors keeps the model that made them.",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        default="auto",
        description="Where the model runs; `auto` takes cuda, then mps, then cpu.",
    )
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        default="auto",
        description="Number type inside the model; `auto` is float16 on cuda, else float32.",
    )
    batch_size: int | None = Field(
        default=None, ge=1, le=4096, description="Images per model call; by default the model's own choice."
    )
    fetch_threads: int = Field(
        default_factory=_default_fetch_threads,
        ge=1,
        le=256,
        description="Threads that read and decode images while the model works; by default cores + 4, at most 16.",
    )
    commit_images: int = Field(
        default=256,
        ge=1,
        le=100_000,
        description="Images per SQL transaction: what a kill can cost is redone.",
    )
    max_image_bytes: int = Field(
        default=DEFAULT_MAX_IMAGE_BYTES, ge=1, description="Larger image files are refused (`too_large`)."
    )
    max_image_pixels: int = Field(
        default=DEFAULT_MAX_IMAGE_PIXELS,
        ge=1,
        description="Images that claim more pixels are refused before decoding (`too_many_pixels`).",
    )

    @field_validator("data_dir")
    @classmethod
    def _expanded(cls, value: Path) -> Path:
        return value.expanduser()

    @property
    def catalog_path(self) -> Path:
        """The SQLite file of the catalog."""
        return self.data_dir / "catalog.sqlite"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags first, then the environment, then the TOML file."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load_settings(config_file: Path | None = None, **flags: Any) -> Settings:
    """Read the settings; flags that are None count as not given.

    The file is `config_file`, else the one that VISUAL_SEARCH_CONFIG names, else `visual-search.toml` in the
    working folder if there is one. Raises SettingsError naming each wrong value.
    """
    named = config_file or _path_from_environment()
    if named is not None and not named.is_file():
        raise SettingsError(f"no configuration file at {named}")
    chosen = named or Path("visual-search.toml")
    _refuse_unknown_variables()

    class _SettingsOfThisFile(Settings):
        model_config = SettingsConfigDict(toml_file=chosen)

    given = {name: value for name, value in flags.items() if value is not None}
    try:
        loaded = _SettingsOfThisFile(**given)
    except ValidationError as error:
        raise SettingsError(_explain(error)) from error
    except ValueError as error:  # the TOML parser's own error
        raise SettingsError(f"{chosen} is not valid TOML: {error}") from error
    return Settings.model_construct(_fields_set=loaded.model_fields_set, **loaded.model_dump())


def _path_from_environment() -> Path | None:
    value = os.environ.get("VISUAL_SEARCH_CONFIG")
    return Path(value).expanduser() if value else None


def _refuse_unknown_variables() -> None:
    """A misspelt variable would otherwise be ignored in silence."""
    prefix = "VISUAL_SEARCH_"
    known = {prefix + name.upper() for name in Settings.model_fields} | {"VISUAL_SEARCH_CONFIG"}
    unknown = sorted(name for name in os.environ if name.startswith(prefix) and name.upper() not in known)
    if unknown:
        raise SettingsError(f"unknown variable {', '.join(unknown)}; known are {', '.join(sorted(known))}")


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown setting '{name}'")
        else:
            lines.append(f"setting '{name}': {problem['msg']} (got {problem['input']!r})")
    return "; ".join(lines) + ". See docs/configuration.md or `visual-search settings`."

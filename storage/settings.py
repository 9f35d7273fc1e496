"""The one settings class, and the only file that reads the environment.

Precedence: command-line flag, then `VISUAL_SEARCH_*` variable, then a file of that name in the folder that
VISUAL_SEARCH_SECRETS_DIR names (as Docker and Kubernetes mount secrets), then the TOML file, then the default here.
Credentials for S3 are boto3's own affair (AWS_* variables, ~/.aws, instance roles) and never pass through here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from platformdirs import user_data_path
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from storage.cores import usable_cores
from storage.errors import SettingsError
from storage.images.backend import DEFAULT_MAX_IMAGE_BYTES
from storage.images.web_address import host_pattern_problem

DEFAULT_MODEL = "openai/clip-vit-base-patch32"
DEFAULT_MAX_IMAGE_PIXELS = 200_000_000  # medium-format cameras make 150 Mpx; 200 Mpx is 600 MB once decoded
_URL_SCHEMES = {
    "redis_url": ("redis://", "rediss://"),
    "database_url": ("postgresql://", "postgresql+psycopg://"),
}
_MAX_FETCH_THREADS = 16  # beyond it, more threads only wait for the same disk


def _default_fetch_threads() -> int:
    return min(_MAX_FETCH_THREADS, usable_cores() + 4)


def allowed_threads() -> int:
    """How many threads may decode and compute: what OMP_NUM_THREADS says, at most the cores of this process."""
    cores = usable_cores()
    said = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]  # OpenMP allows a list, one number for each level
    return min(int(said), cores) if said.isdecimal() and int(said) else cores


class Schedule(BaseModel):
    """One entry of `schedules`: when (five cron fields, UTC) and what is to be done with which source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cron: str  # minute, hour, day of month, month, day of week
    action: Literal["sync", "audit", "rebuild", "prune"]
    source: str = ""  # a folder or s3://bucket/prefix: what is synced or audited
    collection: str | None = None  # None: the collection of the settings
    id_prefix: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    mirror: bool = False  # a sync also removes what the source no longer has

    @field_validator("cron")
    @classmethod
    def _five_fields(cls, value: str) -> str:
        if len(value.split()) != 5:
            message = "a cron expression has five fields: minute, hour, day of month, month, day of week"
            raise ValueError(message)
        return value

    @model_validator(mode="after")
    def _source_where_needed(self) -> Schedule:
        if (self.action in ("sync", "audit")) != bool(self.source):
            message = "sync and audit need a source; rebuild and prune work on the collection and take none"
            raise ValueError(message)
        return self


class ApiKey(BaseModel):
    """One entry of `api_keys`: who it is, what is allowed, and the key's hash (`visual-search keys new` makes one)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=100)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")  # of the key; keys are random, so a plain hash keeps them
    scopes: tuple[Literal["search", "submit", "admin"], ...] = ("search",)  # admin includes the others


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
    backend: Literal["auto", "torch", "onnx", "onnx-int8"] = Field(
        default="auto",
        description="What runs the model: `torch`, `onnx` (onnxruntime, CPU; the same vectors) or `onnx-int8` (CPU; "
        "faster, another model's vectors; see `visual-search models prepare`). `auto` takes `onnx` for CLIP in float32 "
        "on a CPU, else `torch`. A collection that holds vectors keeps the precision that made them.",
    )
    decoding: Literal["reduced", "full"] = Field(
        default="reduced",
        description="How a new collection decodes large JPEGs: at `reduced` size, no less than twice what the model "
        "sees, or in `full`, to the last bit as transformers does. A collection that holds vectors keeps its way.",
    )
    batch_size: int | None = Field(
        default=None, ge=1, le=4096, description="Images per model call; by default the model's own choice."
    )
    fetch_threads: int = Field(
        default_factory=_default_fetch_threads,
        ge=1,
        le=256,
        description="Threads that read images while others are decoded and embedded (on no more threads than cores, or "
        "OMP_NUM_THREADS); by default cores + 4, at most 16.",
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

    decode_in_child: bool = Field(
        default=False,
        description="Decode pictures in child processes with limits: one that crashes or stalls a decoder fails alone "
        "and reaches neither passwords nor the network. Linux and macOS.",
    )
    decode_child_bytes: int = Field(
        default=2 * 1024**3,
        ge=16 * 1024**2,
        description="Memory that a picture may take in a decoding child (`decode_memory`); Linux only.",
    )
    decode_child_seconds: float = Field(
        default=60.0,
        gt=0,
        le=3600.0,
        description="How long a picture may take in a decoding child (`decode_timeout`).",
    )

    database_url: SecretStr | None = Field(
        default=None,
        description="PostgreSQL for the catalog, `postgresql://user:password@host/database`; "
        "without it the catalog is a SQLite file in `data_dir`.",
    )
    redis_url: SecretStr | None = Field(
        default=None,
        description="Redis or Valkey for queued work, `redis://` or `rediss://` (TLS); "
        "without it a bundled Valkey is started in `data_dir/valkey`.",
    )
    redis_trusted_network: bool = Field(
        default=False,
        description="Allow a `redis_url` beyond this machine without TLS or password: nobody else is in that network.",
    )
    batch_images: int = Field(
        default=128, ge=1, le=1024, description="Images per queued batch: what a killed worker has to do again."
    )
    lease_seconds: float = Field(
        default=120.0,
        ge=1.0,
        le=3600.0,
        description="How long a worker that gives no sign keeps its batch; a working one renews three times as often.",
    )
    max_attempts: int = Field(
        default=3,
        ge=1,
        le=100,
        description="How often a batch may cost its worker before it is split, down to the one guilty image.",
    )
    resend_seconds: float = Field(
        default=60.0, ge=1.0, le=86_400.0, description="A batch that no worker took for so long is sent again."
    )
    sweep_seconds: float = Field(default=15.0, ge=0.5, le=3600.0, description="How often lost batches are looked for.")
    stream_messages: int = Field(
        default=64,
        ge=1,
        le=10_000,
        description="Finished batches that may wait for the aggregator; workers pause while there are more.",
    )
    snapshot_address: str | None = Field(
        default=None,
        description="Folder or `s3://bucket/prefix` for index snapshots; by default `data_dir/snapshots`.",
    )
    uploads_address: str | None = Field(
        default=None,
        description="Folder or `s3://bucket/prefix` that keeps uploaded pictures, by collection, where every process "
        "can read them; by default `data_dir/uploads`.",
    )
    snapshot_changes: int = Field(
        default=20_000, ge=1, description="A snapshot of the index is published after so many changes."
    )
    snapshot_seconds: float = Field(
        default=300.0, ge=1.0, description="A changed index is published after so long at the latest."
    )
    schedules: list[Schedule] = Field(
        default_factory=list,
        description="What runs by the clock: a list of tables with `cron` (five fields, UTC), `action` (`sync`, "
        "`audit`, `rebuild` or `prune`) and, for the first two, `source`; if wanted `collection`, `id_prefix`, "
        "`include`, `exclude`, `mirror`; default none.",
    )

    search_queue: int = Field(
        default=256,
        ge=1,
        le=100_000,
        description="Searches of each priority that may wait; while there are more, clients get `busy` at once.",
    )
    search_batch: int = Field(
        default=64, ge=1, le=1024, description="Waiting searches that a query worker answers together."
    )
    search_seconds: float = Field(
        default=10.0, gt=0, le=600.0, description="How long clients wait for an answer unless they say otherwise."
    )
    http_host: str = Field(
        default="127.0.0.1",
        description="Address on which the HTTP API and the web page are served; other than loopback needs `api_keys`.",
    )
    http_port: int = Field(default=8600, ge=0, le=65_535, description="Port of the HTTP API; 0 takes a free one.")
    max_upload_bytes: int = Field(
        default=64 * 1024 * 1024, ge=1024, description="Larger HTTP request bodies are refused before they are read."
    )
    api_keys: list[ApiKey] = Field(
        default_factory=list,
        description="Who may use the HTTP API: a list of tables with `name`, `sha256` (of the key) and `scopes` "
        "(`search`, `submit`, `admin`); made by `visual-search keys new`. Default none: loopback only.",
    )
    job_sources: list[str] = Field(
        default_factory=list,
        description="Folders and `s3://bucket/prefix` addresses: jobs take and processes read pictures only there, "
        "links followed first; uploads may always be read. Default: anywhere; over HTTP with `api_keys`: "
        "S3 only.",
    )
    url_hosts: list[str] = Field(
        default_factory=list,
        description="Hosts whose pictures lists may name by http(s) address: `images.example.com`, or `*.example.com` "
        "for all below; `:port` for another port than 80 and 443. Private addresses stay refused. Default: none.",
    )
    unsafe_private_url_hosts: list[str] = Field(
        default_factory=list,
        description="For tests and development: `host:port` pairs that may be fetched from although their address is "
        "private or this machine's. Default: none.",
    )
    requests_per_minute: int = Field(
        default=600, ge=0, description="HTTP requests that each key (or address, without keys) may make; 0: no limit."
    )
    metrics_port: int | None = Field(
        default=None,
        ge=0,
        le=65_535,
        description="Port on which a role serves Prometheus metrics; default none. `up` counts on from it, one a role.",
    )
    metrics_host: str = Field(default="127.0.0.1", description="Address on which a role serves its metrics.")
    log_format: Literal["text", "json"] = Field(
        default="text", description="How roles write their log: lines for people, or one JSON object a line."
    )

    @field_validator("redis_url", "database_url")
    @classmethod
    def _known_scheme(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        """Refuse early; the message must not repeat the value, for it may hold a password."""
        schemes = _URL_SCHEMES[str(info.field_name)]
        if value is not None and not value.get_secret_value().startswith(schemes):
            message = f"the address begins with {' or '.join(schemes)}"
            raise ValueError(message)
        return value

    @field_validator("job_sources")
    @classmethod
    def _whole_addresses(cls, value: list[str]) -> list[str]:
        """A relative one would mean another folder in every process, an empty one the working folder."""
        for one in value:
            if not (one.startswith(("~", "file:///")) or Path(one).is_absolute() or re.match("s3://[^/]", one)):
                message = f"'{one}' is no full address: give /folder, file:///folder or s3://bucket/prefix"
                raise ValueError(message)
        return value

    @field_validator("url_hosts", "unsafe_private_url_hosts")
    @classmethod
    def _whole_hosts(cls, value: list[str], info: ValidationInfo) -> list[str]:
        """A misspelt entry would allow nothing, and `*` or a bare `host` in the wrong list too much."""
        for one in value:
            problem = host_pattern_problem(one, private=info.field_name == "unsafe_private_url_hosts")
            if problem is not None:
                raise ValueError(problem)
        return value

    @field_validator("uploads_address")
    @classmethod
    def _whole_address(cls, value: str | None) -> str | None:
        """The same for where uploads are kept."""
        if value is not None and not (value.startswith(("/", "~")) or re.match("s3://[^/]", value)):
            message = f"'{value}' is no full address: give /folder or s3://bucket/prefix"
            raise ValueError(message)
        return value

    @field_validator("data_dir")
    @classmethod
    def _expanded(cls, value: Path) -> Path:
        return value.expanduser()

    @property
    def catalog_path(self) -> Path:
        """The SQLite file of the catalog."""
        return self.data_dir / "catalog.sqlite"

    @property
    def uploads_root(self) -> str:
        """Where submitted bytes are kept, by collection: a folder, or an address of a store."""
        return self.uploads_address or str(self.data_dir / "uploads")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags first, then the environment, then files of secrets, then the TOML file."""
        del dotenv_settings
        return init_settings, env_settings, file_secret_settings, TomlConfigSettingsSource(settings_cls)


def load_settings(config_file: Path | None = None, **flags: Any) -> Settings:
    """Read the settings; flags that are None count as not given.

    The file is `config_file`, else the one that VISUAL_SEARCH_CONFIG names, else `visual-search.toml` in the
    working folder if there is one. A folder of secrets is read when VISUAL_SEARCH_SECRETS_DIR names one. Raises
    SettingsError naming each wrong value.
    """
    named = config_file or _path_from_environment()
    if named is not None and not named.is_file():
        raise SettingsError(f"no configuration file at {named}")
    chosen = named or Path("visual-search.toml")
    secrets = _secrets_folder()
    _refuse_unknown(os.environ, "variable")
    _refuse_unknown([one.name for one in secrets.iterdir()] if secrets else [], f"file in {secrets}:")

    class _SettingsOfThisFile(Settings):
        model_config = SettingsConfigDict(toml_file=chosen, secrets_dir=secrets)

    given = {name: value for name, value in flags.items() if value is not None}
    try:
        loaded = _SettingsOfThisFile(**given)
    except ValidationError as error:
        raise SettingsError(_explain(error)) from error
    except OSError as error:
        raise SettingsError(f"cannot read {chosen}: {error.strerror}") from error
    except ValueError as error:  # the TOML parser's own error
        raise SettingsError(f"{chosen} is not valid TOML: {error}") from error
    values = {name: getattr(loaded, name) for name in Settings.model_fields}
    return Settings.model_construct(_fields_set=loaded.model_fields_set, **values)


def _path_from_environment() -> Path | None:
    value = os.environ.get("VISUAL_SEARCH_CONFIG")
    return Path(value).expanduser() if value else None


def _secrets_folder() -> Path | None:
    """The folder whose files are settings; other files in it, which are for others, do not matter."""
    value = os.environ.get("VISUAL_SEARCH_SECRETS_DIR")
    if value and not Path(value).expanduser().is_dir():
        raise SettingsError(f"VISUAL_SEARCH_SECRETS_DIR names {value}, which is no folder")
    return Path(value).expanduser() if value else None


def _refuse_unknown(names: Iterable[str], what: str) -> None:
    """A misspelt variable or file would otherwise be ignored in silence."""
    prefix = "VISUAL_SEARCH_"
    known = {prefix + name.upper() for name in Settings.model_fields} | {prefix + "CONFIG", prefix + "SECRETS_DIR"}
    unknown = sorted(name for name in names if name.upper().startswith(prefix) and name.upper() not in known)
    if unknown:
        raise SettingsError(f"unknown {what} {', '.join(unknown)}; known are {', '.join(sorted(known))}")


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown setting '{name}'")
        else:
            got = "" if name in _URL_SCHEMES else f" (got {problem['input']!r})"  # a URL may hold a password
            lines.append(f"setting '{name}': {problem['msg']}{got}")
    return "; ".join(lines) + ". See docs/configuration.md or `visual-search settings`."

"""Reading settings from flags, environment, files of secrets and TOML; nothing else takes any from the environment."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import SettingsConfigDict

from storage.cores import usable_cores
from storage.errors import SettingsError
from storage.settings.all_settings import Settings
from storage.settings.queued import URL_SCHEMES


def allowed_threads() -> int:
    """How many threads may decode and compute: what OMP_NUM_THREADS says, at most the cores of this process."""
    cores = usable_cores()
    said = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]  # OpenMP allows a list, one number for each level
    return min(int(said), cores) if said.isdecimal() and int(said) else cores


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
            got = "" if name in URL_SCHEMES else f" (got {problem['input']!r})"  # a URL may hold a password
            lines.append(f"setting '{name}': {problem['msg']}{got}")
    return "; ".join(lines) + ". See docs/configuration.md or `visual-search settings`."

"""The one settings class: all groups together, what follows from them, and which source beats which."""

from __future__ import annotations

from pathlib import Path

from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from storage.settings.indexing import IndexingSettings
from storage.settings.queued import QueueSettings
from storage.settings.service import ServiceSettings


# Pydantic takes the fields of the last base first: the groups stand here from last to first.
class Settings(ServiceSettings, QueueSettings, IndexingSettings, BaseSettings):
    """Everything that can be configured; each field is documented in docs/configuration.md from here."""

    model_config = SettingsConfigDict(env_prefix="VISUAL_SEARCH_", extra="forbid", validate_default=True)

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

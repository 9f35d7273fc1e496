"""Options that several commands share, and the settings and collection that they lead to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from storage.settings import Settings, load_settings

if TYPE_CHECKING:
    from visual_search.collection import ImageCollection

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Folder of the catalog.  [env: VISUAL_SEARCH_DATA_DIR]", rich_help_panel="Where"),
]
CollectionName = Annotated[
    str | None,
    typer.Option(
        "--collection",
        "-c",
        help="Collection to use.  [env: VISUAL_SEARCH_COLLECTION]",
        rich_help_panel="Where",
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="TOML file with settings.  [env: VISUAL_SEARCH_CONFIG]", rich_help_panel="Where"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.", rich_help_panel="Output")]
IdPrefix = Annotated[
    str, typer.Option("--id-prefix", help="Put this before each path to make the image id, e.g. `holiday/`.")
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        "--include", help="Take only images whose path matches, e.g. `2024/*`; `**` takes every file. Repeatable."
    ),
]
Exclude = Annotated[
    list[str] | None, typer.Option("--exclude", help="Leave out paths that match this pattern. Repeatable.")
]


def settings_from(config: Path | None, data_dir: Path | None, **flags: Any) -> Settings:
    """The settings with these flags on top."""
    return load_settings(config, data_dir=data_dir, **flags)


def open_existing(settings: Settings, name: str | None) -> ImageCollection:
    """The collection for a command that only makes sense on one that exists."""
    from visual_search.collection import ImageCollection  # loads SQLAlchemy, which few commands of those here need

    return ImageCollection(name, settings=settings, create=False)

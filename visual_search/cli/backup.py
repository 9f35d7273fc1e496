"""`visual-search backup`: the data folder into another folder, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from storage.backup import Backup, check_backup, make_backup, restore_backup
from visual_search.cli.options import AsJson, ConfigFile, DataDir, settings_from
from visual_search.cli.output import console, error_console, print_json

app = typer.Typer(help="Backups of catalog and uploads: create, check, restore.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="Folder of the backup.")]


@app.command(epilog="`visual-search backup create /backups/$(date +%F)`")
def create(
    folder: Annotated[Path, typer.Argument(help="New or empty folder.")],
    *,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Copy catalog and uploads as they are now; workers and searches may go on meanwhile.

    Pictures that were indexed where they lie (folders, S3) are not copied, nor is what can be made again, nor uploads
    that `uploads_address` puts elsewhere.
    """
    settings = settings_from(config, data_dir)
    with error_console().status("copying …"):
        backup = make_backup(settings, folder.expanduser())
    _tell("backed up to", folder, backup, as_json=as_json)
    if settings.uploads_address is not None:
        left = f"not in it: the uploads in {settings.uploads_address}; back them up where they are"
        error_console().print(left, markup=False, soft_wrap=True)


@app.command(epilog="`visual-search backup check /backups/2026-11-24`")
def check(folder: Folder, *, as_json: AsJson = False) -> None:
    """Read all of a backup and compare it with its manifest; exit code 1 when it is damaged."""
    with error_console().status("reading …"):
        backup = check_backup(folder.expanduser())
    _tell("complete and undamaged:", folder, backup, as_json=as_json)


@app.command(epilog="`visual-search backup restore /backups/2026-11-24 --data-dir /srv/visual-search`")
def restore(folder: Folder, *, data_dir: DataDir = None, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Put a backup into a data folder that has no catalog yet; nothing is overwritten.

    In another place than before, the addresses of uploads follow. `audit` shows what its sources changed since.
    """
    settings = settings_from(config, data_dir)
    with error_console().status("copying …"):
        backup = restore_backup(folder.expanduser(), settings)
    _tell(f"restored into {settings.data_dir}:", folder, backup, as_json=as_json)


def _tell(what: str, folder: Path, backup: Backup, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {"folder": str(folder), "files": len(backup.files), "bytes": backup.bytes, "made_at": str(backup.made_at)}
        )
        return
    size = f"{len(backup.files)} files, {backup.bytes / 1e6:.1f} MB, made {backup.made_at:%Y-%m-%d %H:%M} UTC"
    console().print(f"{what} {folder} ({size})", markup=False, soft_wrap=True)

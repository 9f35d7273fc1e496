"""Writes a small catalog of the program as it is now, as SQL: run it when a migration was added, and keep the file.

Usage: PYTHONPATH=.:tests python tests/data/catalogs/make_dump.py tests/data/catalogs/0003.sql
"""

import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from pictures import jpeg
from servers import ROOT, environment_of

from storage.settings import Settings

_CODES = {"index": 3, "images": 0}  # one picture is broken


def main(target: Path) -> None:
    """Index six pictures and a broken one, delete one, dump."""
    with tempfile.TemporaryDirectory() as home:
        settings = Settings(data_dir=Path(home) / "data", model="baseline")
        photos = Path(home) / "photos"
        photos.mkdir()
        for number in range(6):
            (photos / f"{number}.jpg").write_bytes(jpeg(700 + number))
        (photos / "broken.jpg").write_bytes(jpeg(1)[:200])
        for command in (["index", str(photos)], ["images", "delete", "5.jpg"]):
            done = subprocess.run(
                [sys.executable, "-m", "visual_search", *command], cwd=ROOT, env=environment_of(settings), check=False
            )
            assert done.returncode == _CODES[command[0]]
        with closing(sqlite3.connect(settings.catalog_path)) as connection:
            target.write_text("\n".join(connection.iterdump()) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""What processes of ours leave on their own machine, or in their own container: the last sign of each, as a small file.

So a probe learns whether they get on without Redis and SQL, whose failure is no reason to restart anybody. Knows
neither roles nor what stands in a sign.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from hashlib import sha256
from itertools import count
from pathlib import Path
from tempfile import gettempdir

from storage.settings import Settings

_LOG = logging.getLogger(__name__)

_ATTEMPTS = 100  # at a folder that another process takes away just then; each takes a fraction of a millisecond


class LocalSigns:
    """The signs of one data folder's processes, in the folder for temporary files; for their own user only."""

    def __init__(self, settings: Settings) -> None:
        installation = sha256(str(settings.data_dir.absolute()).encode()).hexdigest()[:12]
        self._folder = Path(gettempdir()) / f"visual-search-{os.getuid()}-{installation}"
        self._told = False

    def leave(self, name: str, sign: str) -> None:
        """Replace the sign of this name. One that cannot be written is told once: a probe will miss it."""
        try:
            self._written(name, sign)
        except OSError as error:
            if not self._told:
                _LOG.warning(
                    "no sign can be left in %s, `status --here` will miss this process: %s", self._folder, error
                )
            self._told = True

    def take_back(self, name: str) -> None:
        """Remove the sign of this name, if there is one, and the folder with the last of them."""
        try:
            (self._folder / f"{name}.json").unlink(missing_ok=True)
            self._folder.rmdir()
        except OSError as error:  # as a rule: others' signs are in there
            _LOG.debug("the sign or its folder stays: %s", error)

    def _written(self, name: str, sign: str) -> None:
        for attempt in count(1):
            beside = self._folder / f"{name}.new"
            try:
                self._folder.mkdir(mode=0o700, exist_ok=True)
                beside.write_text(sign)
                beside.replace(self._folder / f"{name}.json")  # whoever reads sees the old one or the new one
            except (FileNotFoundError, FileExistsError):  # who took the last sign back just now took the folder along
                if attempt == _ATTEMPTS:
                    raise
            else:
                return

    def read(self) -> list[str]:
        """All signs that were left and not taken back, by name."""
        signs: list[str] = []
        for path in sorted(self._folder.glob("*.json")):
            with suppress(FileNotFoundError):  # taken back just now
                signs.append(path.read_text())
        return signs

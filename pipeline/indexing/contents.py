"""Content of this run that the catalog does not hold yet, so that equal files in flight are embedded once."""

from __future__ import annotations

from dataclasses import replace

from pipeline.indexing.fetch import Fetched
from storage.catalog import KnownContent


class ContentsInFlight:
    """Who embeds which content: the first file with a hash does, equal ones wait for its outcome."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[Fetched]] = {}
        self._embedded: dict[str, KnownContent] = {}
        self._being_committed: dict[str, KnownContent] = {}

    def embedded(self, sha256: str) -> KnownContent | None:
        """The vector of this content, when it was made by this run and is not known to be committed yet."""
        return self._embedded.get(sha256) or self._being_committed.get(sha256)

    def claim(self, fetched: Fetched) -> bool:
        """True for the first file with its content; an equal one waits, without holding on to its bytes."""
        waiting = self._waiting.get(fetched.sha256)
        if waiting is None:
            self._waiting[fetched.sha256] = []
            return True
        waiting.append(replace(fetched, data=b""))
        return False

    def settle(self, sha256: str, content: KnownContent | None) -> list[Fetched]:
        """The claimed content was embedded (or refused: None); return those that waited for it."""
        if content is not None:
            self._embedded[sha256] = content
        return self._waiting.pop(sha256)

    def handed_over(self) -> None:
        """What was embedded until here is going to be committed, all that was handed over before is."""
        self._being_committed, self._embedded = self._embedded, {}

    def committed(self) -> None:
        """From here on the catalog knows what was handed over."""
        self._being_committed.clear()

"""Says from which folders, buckets and hosts pictures may be read: the settings `job_sources` and `url_hosts`.

Without `job_sources` a job may name every folder that the processes can read; without `url_hosts` no http(s) address.
Compared is where an address really leads: links, `..`, `~` and percent-encoding are followed first. Reads no picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from storage.errors import SourceNotAllowed, StorageError
from storage.images.backend import StorageBackend
from storage.images.file_uri import path_of_file_uri
from storage.images.local_listing import without_links
from storage.images.web_address import NO_HOSTS, WebHosts, is_web_address, web_address
from storage.settings import Settings


@dataclass(frozen=True)
class AllowedSources:
    """Folders, file:// and s3:// addresses below which pictures may be read (none means anywhere), and web hosts."""

    roots: Sequence[str] = ()
    web: WebHosts = NO_HOSTS

    def and_below(self, *addresses: str) -> AllowedSources:
        """The same and places of our own; where everything is allowed that stays so."""
        return replace(self, roots=(*self.roots, *addresses)) if self.roots else self

    def check(self, address: str | Path) -> None:
        """Raise SourceNotAllowed unless the address of a source or of a picture is one of the roots or below.

        Of an http(s) address the host is compared; InvalidKey when it is none. Where its name and its redirects lead
        is checked when it is fetched.
        """
        if isinstance(address, str) and is_web_address(address):
            self.web.check(web_address(address))
        elif self.roots and not any(_is_within(address, root) for root in self.roots):
            raise SourceNotAllowed(
                f"{address} is none of the places that pictures may be read from (setting `job_sources`)"
            )


ANYWHERE = AllowedSources()


class AllowedReader:
    """Reads the pictures of one store; one that lies outside of `allowed` by now raises SourceNotAllowed."""

    def __init__(self, store: StorageBackend, allowed: AllowedSources) -> None:
        self._store = store
        self._allowed = allowed

    def get(self, key: str) -> bytes:
        """The original bytes. Raises StorageError."""
        self._allowed.check(self._store.uri(key))
        return self._store.get(key)


def job_sources(settings: Settings) -> AllowedSources:
    """What jobs may be given."""
    return AllowedSources(tuple(settings.job_sources), _web_hosts(settings))


def readable_sources(settings: Settings) -> AllowedSources:
    """Where workers and the HTTP API may read pictures: what jobs may be given, and what was ever uploaded."""
    return job_sources(settings).and_below(settings.uploads_root, str(settings.data_dir / "uploads"))


def own_sources(settings: Settings) -> AllowedSources:
    """Where a command of the user's own may read pictures: wherever the user may, and from the listed hosts."""
    return AllowedSources(web=_web_hosts(settings))


def _web_hosts(settings: Settings) -> WebHosts:
    return WebHosts(tuple(settings.url_hosts), tuple(settings.unsafe_private_url_hosts))


def _is_within(address: str | Path, root: str) -> bool:
    bucket, top = _bucket_and_parts(address), _bucket_and_parts(root)
    if bucket is None or top is None:
        return bucket is top and _folder(address).is_relative_to(_folder(root))
    (name, parts), (top_name, top_parts) = bucket, top
    # S3 itself takes dots as they stand, a proxy before it may not
    return name == top_name and parts[: len(top_parts)] == top_parts and not {".", ".."} & set(parts)


def _bucket_and_parts(address: str | Path) -> tuple[str, Sequence[str]] | None:
    """The bucket and the parts of the prefix or key; None where the address is no s3:// one."""
    scheme, separator, rest = str(address).partition("://")
    if isinstance(address, Path) or not separator or scheme.lower() != "s3":
        return None
    bucket, _slash, key = rest.partition("/")
    return bucket, key.rstrip("/").split("/") if key.rstrip("/") else []


def _folder(address: str | Path) -> Path:
    """Where the path really leads. Raises StorageError for an address that is none on this machine."""
    scheme, separator, _ = str(address).partition("://")
    if isinstance(address, str) and separator:
        if scheme.lower() != "file":
            raise StorageError(f"{address}: '{scheme}' is no known kind of storage")
        path = Path(path_of_file_uri(address))
    else:
        path = Path(address)
    try:
        return without_links(path.expanduser())
    except (RuntimeError, ValueError) as error:  # `~nobody`; a NUL
        raise StorageError(f"{address!r} is no path here: {error}") from error

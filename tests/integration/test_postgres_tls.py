"""A catalog on PostgreSQL through TLS, with an authority of the tests' own; and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from certificates import Certificate, make_certificate
from databases import PostgresServer
from pictures import write_photos
from postgres_tls import TlsFront, tls_front

from storage.catalog import Catalog
from storage.errors import CatalogError
from storage.settings import Settings
from visual_search import ImageCollection, Query, RerankOptions


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    folder = tmp_path / "tls"
    folder.mkdir()
    return make_certificate(folder, "localhost")


@pytest.fixture
def front(certificate: Certificate, postgres_server: PostgresServer) -> Iterator[TlsFront]:
    """It shows the certificate of `localhost`."""
    with tls_front(certificate, postgres_server.port) as front:
        yield front


def _through(front: TlsFront, url: str, certificate: Certificate, host: str = "localhost") -> str:
    """The address as docs/security.md has it."""
    user_and_password, _, place = url.rpartition("@")
    database = place.partition("/")[2]
    options = f"sslmode=verify-full&sslrootcert={certificate.authority}"
    return f"{user_and_password}@{host}:{front.port}/{database}?{options}"


def test_a_collection_is_indexed_and_searched_through_tls(
    front: TlsFront, certificate: Certificate, postgres_url: str, tmp_path: Path
) -> None:
    write_photos(tmp_path / "photos", 6)
    url = _through(front, postgres_url, certificate)
    settings = Settings.model_validate({"data_dir": tmp_path / "data", "model": "baseline", "database_url": url})
    with ImageCollection(settings=settings) as images:
        assert images.index(tmp_path / "photos").indexed == 6
        assert images.search(Query(image_id="odd/03.jpg"), RerankOptions(top_k=3)).image_ids
    assert front.handed_on > 0
    with Catalog.open(postgres_url) as catalog:
        assert [one.name for one in catalog.collections.list()] == ["default"], "it is the same server"


def test_a_certificate_of_another_authority_is_refused(front: TlsFront, postgres_url: str, tmp_path: Path) -> None:
    other = make_certificate(tmp_path, "localhost")
    with pytest.raises(CatalogError, match="certificate verify failed"):
        Catalog.open(_through(front, postgres_url, other))
    assert front.handed_on == 0, "nothing was said to the server"


def test_a_certificate_for_another_name_is_refused(
    front: TlsFront, certificate: Certificate, postgres_url: str
) -> None:
    with pytest.raises(CatalogError, match=r"does not match host name"):
        Catalog.open(_through(front, postgres_url, certificate, host="127.0.0.1"))


def test_a_server_without_tls_gets_no_password(postgres_url: str, certificate: Certificate) -> None:
    with pytest.raises(CatalogError, match="server does not support SSL"):
        Catalog.open(f"{postgres_url}?sslmode=verify-full&sslrootcert={certificate.authority}")

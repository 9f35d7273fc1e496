"""Compares a source with the catalog, the vectors and the index: what is missing, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pydantic import BaseModel, Field

from pipeline.indexing.chunks import chunks
from pipeline.indexing.source import Source, SourceItem
from storage.catalog import Catalog, FailureRecord, Generation, KnownImage
from storage.errors import StorageDenied
from storage.images.locate import split_uri
from storage.records import failure_id
from storage.vector_index import VectorIndex

_CHUNK = 512  # ids per catalog look-up


class Finding(BaseModel):
    """One disagreement: which image, what is wrong (a stable code), and an explanation."""

    image_id: str
    source_uri: str
    problem: str
    detail: str = ""


class AuditReport(BaseModel):
    """The result of an audit; `clean` when every listed image is indexed or has a recorded reason.

    Problems: `failed` (a recorded failure says why), `deleted` (by its user), `changed` (the file is newer than its
    vector), `not_indexed` (no trace: index again), `source_gone` (indexed, but the source no longer has it),
    `vector_missing` and `index_mismatch` (catalog, vectors and index disagree).
    """

    listed: int = 0
    indexed: int = 0
    vectors: int = 0
    findings: list[Finding] = Field(default_factory=list)

    _EXPLAINED = frozenset({"failed", "deleted"})

    @property
    def clean(self) -> bool:
        """Whether nothing is unexplained."""
        return all(finding.problem in self._EXPLAINED for finding in self.findings)

    def by_problem(self) -> dict[str, int]:
        """How many findings of each kind."""
        counts: dict[str, int] = {}
        for finding in self.findings:
            counts[finding.problem] = counts.get(finding.problem, 0) + 1
        return counts


def audit_source(
    catalog: Catalog, generation: Generation, source: Source, index: Callable[[], VectorIndex]
) -> AuditReport:
    """Audit one source against one generation and an index that follows its feed (`index` brings it up to date).

    Images of other sources are not reported. Raises StorageError when the source cannot be listed.
    """
    report = AuditReport()
    failures = {failure.image_id: failure for failure in catalog.failures.list(generation.collection_id)}
    addresses: set[str] = set()
    denied: list[Finding] = []

    def deny(image_id: str, uri: str, error: StorageDenied) -> None:
        problem = "failed" if failure_id(image_id) in failures else "not_indexed"
        denied.append(Finding(image_id=image_id, source_uri=uri, problem=problem, detail=str(error)))

    for chunk in chunks(source.items(deny), _CHUNK):
        addresses.update(item.stored.uri for item in chunk)
        report.findings.extend(_findings_of(catalog, generation, chunk, failures))
        report.listed += len(chunk)
    report.indexed = report.listed - len(report.findings)
    report.findings.extend(denied)
    unread = tuple(finding.source_uri for finding in denied if finding.source_uri.endswith("/"))
    report.findings.extend(_sourceless(catalog, generation, source, addresses, unread))
    report.findings.extend(_index_disagreements(catalog, generation, index))
    report.vectors = len(index())
    return report


def _findings_of(
    catalog: Catalog, generation: Generation, items: list[SourceItem], failures: dict[str, FailureRecord]
) -> Iterator[Finding]:
    known = catalog.images.known(generation.collection_id, generation.id, [item.image_id for item in items])
    for item in items:
        found = _problem(item, known.get(item.image_id), failures.get(failure_id(item.image_id)))
        if found is not None:
            problem, detail = found
            yield Finding(image_id=item.image_id, source_uri=item.stored.uri, problem=problem, detail=detail)


def _problem(  # noqa: PLR0911 - a list of cases reads best as one
    item: SourceItem, image: KnownImage | None, failure: FailureRecord | None
) -> tuple[str, str] | None:
    if failure is not None and failure.source_uri == item.stored.uri:
        if failure.etag == item.stored.etag:
            return "failed", f"{failure.reason}: {failure.message}"
        return "changed", "the file changed after it failed: index again"
    if image is None:
        return "not_indexed", "no trace in the catalog: index the source (again)"
    if image.metadata.source_uri != item.stored.uri:
        other = image.metadata.source_uri or "a file that is gone"
        return "not_indexed", f"this id belongs to {other}: give the folder and --id-prefix as to `index`"
    if image.deleted:
        return "deleted", "deleted from the collection"
    if not image.has_vector:
        return "vector_missing", "in the catalog, but without a vector of the active model: index again"
    if image.metadata.etag != item.stored.etag:
        return "changed", "the file changed after it was indexed: index again"
    return None


def _sourceless(
    catalog: Catalog, generation: Generation, source: Source, addresses: set[str], unread: tuple[str, ...]
) -> Iterator[Finding]:
    """Images recorded from this very source that it no longer lists, under whatever id.

    Of what is in `unread` folders nothing is known: they may be there.
    """
    root = source.backend.uri("")
    for image in catalog.images.list(generation.collection_id):
        if not image.source_uri.startswith(root) or image.source_uri in addresses:
            continue
        if image.source_uri.startswith(unread):
            continue
        if source.takes(_key_under(root, image.source_uri)):
            detail = "indexed, but no longer in the source: `images delete` removes it"
            yield Finding(image_id=image.image_id, source_uri=image.source_uri, problem="source_gone", detail=detail)


def _key_under(root: str, uri: str) -> str:
    """The key that a recorded address has within the store at `root` (both percent-encoded, if files)."""
    return split_uri(uri)[1].removeprefix(split_uri(root + "x")[1].removesuffix("x"))


def _index_disagreements(
    catalog: Catalog, generation: Generation, index: Callable[[], VectorIndex]
) -> Iterator[Finding]:
    """What differs, and still does at a second look: somebody may be indexing at this moment."""
    for image_id in sorted(_differing(catalog, generation, index) & _differing(catalog, generation, index)):
        here = image_id in index()
        detail = "in the index but not in the catalog" if here else "in the catalog but not in the index"
        yield Finding(image_id=image_id, source_uri="", problem="index_mismatch", detail=detail)


def _differing(catalog: Catalog, generation: Generation, index: Callable[[], VectorIndex]) -> set[str]:
    live = {image.image_id for image in catalog.images.list(generation.collection_id)}
    return live.symmetric_difference(index().ids())

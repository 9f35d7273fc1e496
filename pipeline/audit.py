"""Compares a source with the catalog, the vectors and the index: what is missing, and why."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, Field

from pipeline.indexing.chunks import chunks
from pipeline.indexing.source import Source, SourceItem
from storage.catalog import Catalog, FailureRecord, Generation
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


def audit_source(catalog: Catalog, generation: Generation, source: Source, index: VectorIndex) -> AuditReport:
    """Audit one source against one generation and an index built from its feed.

    Images of other sources are not reported. Raises StorageError when the source cannot be listed.
    """
    report = AuditReport(vectors=len(index))
    failures = {failure.image_id: failure for failure in catalog.failures.list(generation.collection_id)}
    listed: set[str] = set()
    for chunk in chunks(source.items(), _CHUNK):
        listed.update(item.image_id for item in chunk)
        report.findings.extend(_findings_of(catalog, generation, chunk, failures))
    report.listed = len(listed)
    report.indexed = report.listed - len(report.findings)
    report.findings.extend(_sourceless(catalog, generation, source, listed))
    report.findings.extend(_index_disagreements(catalog, generation, index))
    return report


def _findings_of(
    catalog: Catalog, generation: Generation, items: list[SourceItem], failures: dict[str, FailureRecord]
) -> Iterator[Finding]:
    known = catalog.images.known(generation.collection_id, generation.id, [item.image_id for item in items])
    for item in items:
        image, failure = known.get(item.image_id), failures.get(item.image_id)
        here = Finding(image_id=item.image_id, source_uri=item.stored.uri, problem="not_indexed")
        if failure is not None and failure.source_uri == item.stored.uri:
            detail = f"{failure.reason}: {failure.message}"
            yield here.model_copy(update={"problem": "failed", "detail": detail})
        elif image is None or image.metadata.source_uri != item.stored.uri:
            yield here.model_copy(update={"detail": "no trace in the catalog: index the source (again)"})
        elif image.deleted:
            yield here.model_copy(update={"problem": "deleted", "detail": "deleted from the collection"})
        elif not image.has_vector:
            detail = "in the catalog, but without a vector of the active model: index again"
            yield here.model_copy(update={"problem": "vector_missing", "detail": detail})
        elif image.metadata.etag != item.stored.etag:
            detail = "the file changed after it was indexed: index again"
            yield here.model_copy(update={"problem": "changed", "detail": detail})


def _sourceless(catalog: Catalog, generation: Generation, source: Source, listed: set[str]) -> Iterator[Finding]:
    """Images recorded from this very source that it no longer lists."""
    root = source.backend.uri("")
    for image in catalog.images.list(generation.collection_id, prefix=source.id_prefix):
        if image.image_id in listed or not image.source_uri.startswith(root):
            continue
        if source.takes(image.image_id[len(source.id_prefix) :]):
            detail = "indexed, but no longer in the source: `images delete` removes it"
            yield Finding(image_id=image.image_id, source_uri=image.source_uri, problem="source_gone", detail=detail)


def _index_disagreements(catalog: Catalog, generation: Generation, index: VectorIndex) -> Iterator[Finding]:
    live = {image.image_id for image in catalog.images.list(generation.collection_id)}
    for image_id in sorted(live.symmetric_difference(index.ids())):
        detail = "in the catalog but not in the index" if image_id in live else "in the index but not in the catalog"
        yield Finding(image_id=image_id, source_uri="", problem="index_mismatch", detail=detail)

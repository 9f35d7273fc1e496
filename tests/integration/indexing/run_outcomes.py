"""What became of the images of a run, as tests compare it."""

from pipeline.indexing.report import IndexReport


def outcomes_of(report: IndexReport) -> dict[str, int]:
    return {name: count for name, count in report.counts().items() if count and name != "listed"}

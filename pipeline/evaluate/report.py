"""The result of an evaluation: what was measured, how to repeat it, and how it reads as text."""

from __future__ import annotations

import contextlib
import os
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from pipeline.errors import EvaluationError
from storage.records import ModelIdentity

_RULE = "=" * 17


class QueryEvaluation(BaseModel):
    """One query: its measures, the first ids ranked (up to the largest k), and where the relevant ones stood.

    `relevant_ranks` are the ranks (from 1, within the depth) of the relevant images that were found. With the
    size of the ground truth they are all that any of the measures needs.
    """

    model_config = ConfigDict(frozen=True)

    query_id: str
    ground_truth: list[str]
    metrics: dict[str, float]
    ranked_ids: list[str]
    relevant_ranks: list[int]


class EvaluationRun(BaseModel):
    """What is needed to repeat a run: model, data set, settings, size of the collection, versions, date."""

    model_config = ConfigDict(frozen=True)

    model: ModelIdentity | None
    dataset_path: str
    dataset_sha256: str
    k_values: list[int]
    depth: int  # ranks looked at for mAP and MRR
    collection_size: int  # images in the index
    library_version: str
    environment: dict[str, str]  # versions of what ranks: Python, numpy, FAISS
    created_at: datetime


class EvaluationResult(BaseModel):
    """Means and per-query measures of one run.

    `unknown_ids` are those that the ground truth names and the index does not hold; it is empty unless the
    evaluation was told to go on, and then each of them counts as not found.
    """

    model_config = ConfigDict(frozen=True)

    run: EvaluationRun
    means: dict[str, float]
    queries: list[QueryEvaluation]
    unknown_ids: list[str] = Field(default_factory=list)

    def summary(self) -> str:
        """Return the short text: Recall at each k, mAP, MRR."""
        recalls = [f"Recall@{k}: {self.means[f'recall@{k}']:.3f}" for k in self.run.k_values]
        ends = [f"mAP: {self.means['map']:.3f}", f"MRR: {self.means['mrr']:.3f}"]
        return "\n".join(["Evaluation Results", _RULE, f"Queries: {len(self.queries)}", *recalls, *ends])

    def table(self) -> str:
        """Return all means as a text table, with what was measured above it."""
        run = self.run
        columns = ("recall", "precision", "ndcg", "success")
        lines = [
            f"Model: {run.model or 'not recorded'}",
            f"Ground truth: {run.dataset_path or 'not from a file'} (sha256 {run.dataset_sha256[:12]})",
            f"Queries: {len(self.queries)}   Images: {run.collection_size}   Depth: {run.depth}",
        ]
        if self.unknown_ids:
            lines.append(f"Not in the index, counted as not found: {len(self.unknown_ids)} ids")
        lines += ["", f"{'k':>6} {'Recall':>10} {'Precision':>10} {'nDCG':>10} {'Success':>10}"]
        for k in run.k_values:
            lines.append(f"{k:>6} " + " ".join(f"{self.means[f'{name}@{k}']:>10.4f}" for name in columns))
        return "\n".join([*lines, "", f"mAP: {self.means['map']:.4f}   MRR: {self.means['mrr']:.4f}"])

    def save(self, path: str | Path) -> None:
        """Write everything as JSON, whole or not at all. Raises EvaluationError when it cannot be written."""
        target = Path(path)
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            partial.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
            partial.replace(target)
        except OSError as error:
            with contextlib.suppress(OSError):  # the first error says what is wrong
                partial.unlink(missing_ok=True)
            raise EvaluationError(f"cannot write the results to {target}: {error.strerror or error}") from error

"""Runs the demo: photos in, search results, measured quality and a page out."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.embedders.baseline import BASELINE_NAME as BASELINE
from pipeline.errors import InvalidQuery, ModelUnavailable
from pipeline.rerank import RerankOptions
from pipeline.results import SearchResults
from storage.settings import Settings
from visual_search.cli.output import console, print_table
from visual_search.cli.progress import counter, indexing_progress
from visual_search.collection import ImageCollection
from visual_search.demo.photos import write_sample_photos
from visual_search.demo.system import DemoFailed, running_system
from visual_search.page import section_of, write_page
from visual_search.query import Query

_SAMPLE_IDS = ("animals/cat.png", "sky/rocket.jpg", "people/astronaut.png")
_SAMPLE_TEXTS = ("a cat", "a person in a space suit", "the night sky")
_RESULTS_PER_QUERY = 6
_MARKER = ".visual-search-demo"  # tells a folder that the demo made, and may empty, from any other


@dataclass(frozen=True)
class DemoPlan:
    """Where the demo works, on whose photos, and with which model (None: CLIP, or `baseline` when it cannot be had)."""

    output: Path
    photos: Path | None
    model: str | None
    system: bool = True  # also as a system of processes


def run_demo(plan: DemoPlan, settings: Settings) -> Path:
    """Index, search, evaluate; return the page. Everything it writes is under the output folder, made anew."""
    _make_output_fresh(plan.output)
    data_dir = plan.output / "data"
    ground_truth = None
    photos = plan.photos
    if photos is None:
        photos = plan.output / "photos"
        ground_truth = write_sample_photos(photos)
    base = settings.model_copy(update={"data_dir": data_dir, "collection": "demo"})
    collection, notice = _open(base, plan.model)
    with collection:
        if not _index(collection, photos):
            raise InvalidQuery(f"no image of {photos} could be indexed: nothing to search")
        answers = _search(collection, sample=plan.photos is None)
        if ground_truth is not None:
            _evaluate(collection, ground_truth)
        page = plan.output / "results.html"
        sections = [section_of(query, results, collection) for query, results in answers]
        write_page(page, "Visual Search demo", sections, collection.reader(), notice)
        model = collection.settings.model
        console().print(f"\n[bold]Pictures:[/] open {page.resolve()}", soft_wrap=True)
    if plan.system:
        _show_system(model, photos, answers, plan.output)
    return page


def _show_system(model: str, photos: Path, answers: Sequence[tuple[Query, SearchResults]], output: Path) -> None:
    """The same photos and questions again, through every process of the distributed system."""
    console().print("\n[bold]The same as a system of processes[/] (queue, workers, aggregator, query worker, HTTP) …")
    expected = {query.image_id: results.image_ids for query, results in answers if query.image_id is not None}
    ids = list(expected)
    with running_system(model, output / "system") as system:
        system.index(photos, ids[0])
        by_rpc = dict(zip(ids, system.search_by_rpc(ids, _RESULTS_PER_QUERY), strict=True))
        by_http = {image_id: system.search_by_http(image_id, _RESULTS_PER_QUERY) for image_id in ids}
        rows = [(one, f"{by_rpc[one].milliseconds:.1f} ms", f"{by_http[one].milliseconds:.1f} ms") for one in ids]
        print_table(["most like", "by RPC", "over HTTP"], rows)
        picture = output / "page.png"
        drawn = system.screenshot(ids[0], picture)
    for found in (by_rpc, by_http):
        if {one: answer.image_ids for one, answer in found.items()} != expected:
            raise DemoFailed(f"the system answers {found}, the library answered {expected}")
    console().print("Both answer exactly as the library did above.")
    where = f"its page is drawn in {picture.resolve()}" if drawn else "no browser here to draw its page"
    console().print(f"[bold]Keep it running[/] with `make up` or `visual-search up`; {where}", soft_wrap=True)


def _make_output_fresh(output: Path) -> None:
    """Empty the folder of an earlier demo, and nobody else's. Raises InvalidQuery."""
    marker = output / _MARKER
    if output.exists() and not marker.is_file() and (not output.is_dir() or any(output.iterdir())):
        raise InvalidQuery(f"{output} is not empty and no earlier demo made it: give --output a new folder")
    for made in (output / "data", output / "photos", output / "system"):
        if made.exists():
            shutil.rmtree(made)
    try:
        output.mkdir(parents=True, exist_ok=True)
        marker.touch()
    except OSError as error:
        raise InvalidQuery(f"cannot write into {output}: {error.strerror}") from error


def _open(settings: Settings, model: str | None) -> tuple[ImageCollection, str | None]:
    """With CLIP when it can be had; else with `baseline`, and a notice that says so."""
    collection = ImageCollection(settings=settings.model_copy(update={"model": model or settings.model}))
    if (model or settings.model) == BASELINE:
        notice = _baseline_notice("as asked")
        console().print(f"[bold yellow]NOTICE:[/] {notice}", soft_wrap=True)
        return collection, notice
    console().print(f"Loading {collection.settings.model} …", markup=False)
    try:
        collection.embedding_service  # noqa: B018 - loads the model, which is the point
    except ModelUnavailable as error:
        collection.close()
        if model is not None:
            raise
        notice = _baseline_notice(f"{settings.model} cannot be had here")
        console().print(f"[bold yellow]NOTICE:[/] {notice}\n[dim]{error}[/]", soft_wrap=True)
        return ImageCollection(settings=settings.model_copy(update={"model": BASELINE})), notice
    except Exception:
        collection.close()
        raise
    return collection, None


def _baseline_notice(why: str) -> str:
    return (
        f"This run uses `baseline` ({why}): a simple colour-and-edge descriptor without any learning. It finds "
        "near-duplicates and similar layouts; it understands neither objects nor words. CLIP does."
    )


def _index(collection: ImageCollection, photos: Path) -> int:
    with indexing_progress(counter(collection.source(photos))) as show:
        report = collection.index(photos, on_progress=show)
    console().print(
        f"[bold]Indexed[/] {report.indexed} of {report.listed} images from {photos} in {report.seconds:.1f} s "
        f"({report.reused} equal copies reused, {report.failed} failed)",
        soft_wrap=True,
    )
    for failure in collection.failures():
        console().print(f"  {failure.image_id}: {failure.reason}: {failure.message}", markup=False, soft_wrap=True)
    return report.indexed + report.reused


def _search(collection: ImageCollection, *, sample: bool) -> list[tuple[Query, SearchResults]]:
    ids: Sequence[str] = _SAMPLE_IDS if sample else _spread(collection, len(_SAMPLE_IDS))
    queries = [Query(image_id=image_id) for image_id in ids]
    generation = collection.generation
    if generation is not None and generation.model.name != BASELINE:
        queries += [Query(text=text) for text in _SAMPLE_TEXTS]
    answers = []
    for query in queries:
        results = collection.search(query, RerankOptions(top_k=_RESULTS_PER_QUERY))
        answers.append((query, results))
        rows = [(str(one.rank), f"{one.score:.4f}", one.image_id) for one in results.results]
        console().print()
        print_table(["rank", "score", "image"], rows, title=f"Most like {query.image_id or query.text}")
    return answers


def _spread(collection: ImageCollection, count: int) -> list[str]:
    ids = [image.image_id for image in collection.images()]
    step = max(1, len(ids) // count)
    return ids[::step][:count]


def _evaluate(collection: ImageCollection, ground_truth: Path) -> None:
    result = collection.evaluate(ground_truth, k_values=(1, 3, 5))
    console().print("\nDoes each photo find its cropped, mirrored and recompressed copies?")
    console().print(result.summary(), markup=False)

"""`visual-search search`: by picture, by a stored image, or by words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import InvalidQuery
from pipeline.rerank import RerankOptions
from pipeline.results import SearchResults
from storage.filters import And, Filter, parse_filter
from visual_search.cli.options import (
    AsJson,
    CollectionName,
    ConfigFile,
    DataDir,
    open_existing,
    settings_from,
)
from visual_search.cli.output import console, print_json, print_table
from visual_search.collection import Query
from visual_search.page import write_results_page

EXAMPLES = """
**Examples**

`visual-search search --image query.jpg -k 5`

`visual-search search --text "a dog on a beach" --filter year>=2020 --html results.html`

`visual-search search --id 2024/cat.jpg --diversity 0.5 --near-duplicates 0.97 --json`
"""


def command(  # noqa: PLR0913 - one parameter per command-line option
    *,
    image: Annotated[Path | None, typer.Option("--image", "-i", help="Find what looks like this picture.")] = None,
    image_id: Annotated[str | None, typer.Option("--id", help="Find what looks like this indexed image.")] = None,
    text: Annotated[str | None, typer.Option("--text", "-t", help="Find what these words describe.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=1_000_000, help="How many results.")] = 10,
    offset: Annotated[
        int, typer.Option("--offset", min=0, max=1_000_000_000, help="Skip so many results (pages).")
    ] = 0,
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            "-f",
            help="`key=value`, `key=a,b`, `key!=value`, `key>=1`, `key` (has it), `!key`. Repeatable: all must hold.",
        ),
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option("--min-score", min=-1.0, max=1.0, help="Leave out weaker matches (cosine)."),
    ] = None,
    diversity: Annotated[
        float | None,
        typer.Option("--diversity", min=0.0, max=1.0, help="0 = most similar first, 1 = most varied."),
    ] = None,
    near_duplicates: Annotated[
        float | None,
        typer.Option("--near-duplicates", min=0.01, max=1.0, help="Show one of images this similar, e.g. 0.95."),
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option("--group-by", help="At most --group-size results per value of this attribute."),
    ] = None,
    group_size: Annotated[int, typer.Option("--group-size", min=1)] = 1,
    html: Annotated[
        Path | None,
        typer.Option("--html", help="Also write a page with the pictures.", rich_help_panel="Output"),
    ] = None,
    collection: CollectionName = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Search a collection: exactly one of --image, --id or --text."""
    query = Query(image=image, image_id=image_id, text=text)
    if image is not None and not image.is_file():
        raise InvalidQuery(f"no picture at {image}")
    options = RerankOptions(
        top_k=k,
        offset=offset,
        filter=_all_of(filters or []),
        min_score=min_score,
        diversity=diversity,
        near_duplicate_threshold=near_duplicates,
        group_by=group_by,
        group_size=group_size,
    )
    with open_existing(settings_from(config, data_dir), collection) as images:
        results = images.search(query, options)
        if as_json:
            print_json(results.model_dump(mode="json"))
        else:
            _print_results(results)
        if html is not None:
            write_results_page(html, query, results, images)
            if not as_json:
                console().print(f"page with pictures: {html.expanduser().resolve()}", markup=False, soft_wrap=True)


def _all_of(texts: list[str]) -> Filter | None:
    filters = [parse_filter(text) for text in texts]
    if not filters:
        return None
    return filters[0] if len(filters) == 1 else And(filters=filters)


def _print_results(results: SearchResults) -> None:
    if not results.results:
        console().print("no image matches")
        return
    rows = [
        (
            str(result.rank),
            f"{result.score:.4f}",
            result.image_id,
            ", ".join(f"{key}={value}" for key, value in sorted(result.attributes.items())),
        )
        for result in results.results
    ]
    print_table(["rank", "score", "image", "attributes"], rows)

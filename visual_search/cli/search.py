"""`visual-search search`: by pictures, stored images and words, by the running service or in this process."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import InvalidQuery
from pipeline.rerank import RerankOptions
from query_service.client import SearchClient
from query_service.protocol import MAX_K, MAX_OFFSET, MAX_TIMEOUT_SECONDS, SearchRequest
from query_service.transport.asking import filter_of
from storage.settings import Settings
from visual_search.cli.options import (
    AsJson,
    CollectionName,
    ConfigFile,
    DataDir,
    open_existing,
    settings_from,
)
from visual_search.cli.output import console, error_console, print_json
from visual_search.cli.search_output import Found, print_found
from visual_search.cli.search_question import SearchedFor, Sought
from visual_search.cli.service_choice import choose

if TYPE_CHECKING:
    from visual_search.collection import ImageCollection
    from visual_search.page import Section

EXAMPLES = """
**Examples**

`visual-search search --image query.jpg -k 5`

`visual-search search --text "a dog on a beach" --filter 'year>=2020' --html results.html`

`visual-search search --image dress.jpg --text "in red" --not-text "long sleeves" --explain`

`visual-search search --id 2024/cat.jpg --diversity 0.5 --near-duplicates 0.97 --json`
"""

_MIX = "Mixing"
_WHO = "Who searches"


def command(  # noqa: PLR0913 - one parameter per command-line option
    *,
    image: Annotated[
        list[Path] | None, typer.Option("--image", "-i", help="Find what looks like this picture. Repeatable.")
    ] = None,
    image_id: Annotated[
        list[str] | None, typer.Option("--id", help="Find what looks like this indexed image. Repeatable.")
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option("--text", "-t", help="Find what these words describe. Repeatable.")
    ] = None,
    not_image: Annotated[
        list[Path] | None, typer.Option("--not-image", help="And unlike this picture.", rich_help_panel=_MIX)
    ] = None,
    not_id: Annotated[
        list[str] | None, typer.Option("--not-id", help="And unlike this indexed image.", rich_help_panel=_MIX)
    ] = None,
    not_text: Annotated[
        list[str] | None, typer.Option("--not-text", help="And unlike these words.", rich_help_panel=_MIX)
    ] = None,
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
    service: Annotated[
        bool, typer.Option("--service", help="Ask the running service, or fail.", rich_help_panel=_WHO)
    ] = False,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Search in this process, service or not.", rich_help_panel=_WHO)
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            min=0.001,
            max=MAX_TIMEOUT_SECONDS,
            help="Seconds to wait for the service.  [env: VISUAL_SEARCH_SEARCH_SECONDS]",
            rich_help_panel=_WHO,
        ),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show how each result came about.", rich_help_panel="Output")
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option("--html", help="Also write a page with the pictures.", rich_help_panel="Output"),
    ] = None,
    collection: CollectionName = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Search a collection by what you give of --image, --id and --text; several are mixed.

    A running service (`visual-search up`) is asked; without one the search runs in this process.
    """
    if service and embedded:
        raise InvalidQuery("--service and --embedded exclude each other")
    asked = SearchedFor(
        Sought(image or (), image_id or (), text or ()), Sought(not_image or (), not_id or (), not_text or ())
    )
    asked.check()
    options = RerankOptions(
        top_k=k,
        offset=offset,
        filter=filter_of(filters),
        min_score=min_score,
        diversity=diversity,
        near_duplicate_threshold=near_duplicates,
        group_by=group_by,
        group_size=group_size,
    )
    settings = settings_from(config, data_dir, collection=collection, search_seconds=timeout)
    chosen = choose(settings, service=service, embedded=embedded, too_large=k > MAX_K or offset > MAX_OFFSET)
    if chosen.client is not None:
        with chosen.client, error_console().status("asking the service"):
            found = _by_service(chosen.client, _request(asked, options, settings, explain=explain))
    else:
        with error_console().status("loading the index and the model"):
            found = replace(_embedded(asked, options, settings, explain=explain), why=chosen.why)
    if as_json:
        print_json(found.as_json())
    else:
        print_found(found)
    if html is not None:
        _write_page(html, asked, found, settings)
        if not as_json:
            console().print(f"page with pictures: {html.expanduser().resolve()}", markup=False, soft_wrap=True)


def _request(asked: SearchedFor, options: RerankOptions, settings: Settings, *, explain: bool) -> SearchRequest:
    return SearchRequest(
        collection=settings.collection,
        parts=asked.parts(settings.max_image_bytes),
        options=options,
        explain=explain,
        timeout_seconds=settings.search_seconds,
    )


def _by_service(client: SearchClient, request: SearchRequest) -> Found:
    started = perf_counter()
    answer = client.send(request)
    seconds = perf_counter() - started
    return Found(answer, "service", seconds, answer.provenance.generation_id, answer.provenance.images)


def _embedded(asked: SearchedFor, options: RerankOptions, settings: Settings, *, explain: bool) -> Found:
    """Search here; the time is that of loading the index (and the model), too."""
    started = perf_counter()
    from visual_search.cli.embedded_search import answer_embedded  # a search by the service loads none of this

    with closing(open_existing(settings, None)) as images:
        if asked.single is not None and not explain:
            results = images.search(asked.single, options)
            index, generation = images.search_service.index, images.generation
            size, generation_id = len(index), 0 if generation is None else generation.id
            return Found(results, "embedded", perf_counter() - started, generation_id, size)
        answer = answer_embedded(images, _request(asked, options, settings, explain=explain))
        seconds = perf_counter() - started
        return Found(answer, "embedded", seconds, answer.provenance.generation_id, answer.provenance.images)


def _write_page(path: Path, asked: SearchedFor, found: Found, settings: Settings) -> None:
    from visual_search.page import write_page

    with closing(open_existing(settings, None)) as images:
        section = _section(asked, found, images)
        write_page(path, "Search results", [section], images.reader())


def _section(asked: SearchedFor, found: Found, images: ImageCollection) -> Section:
    from visual_search.page import section_of

    section = section_of(asked.like.first(), found.results, images)
    return section if asked.single is not None else replace(section, heading=asked.heading())

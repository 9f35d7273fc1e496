"""`visual-search status`: what is in the catalog."""

from __future__ import annotations

from storage.catalog import catalog_exists, catalog_of, catalog_place
from visual_search.cli.options import AsJson, ConfigFile, DataDir, settings_from
from visual_search.cli.output import console, print_json, print_table
from visual_search.overview import overview_of

EXAMPLES = """
**Example**

`visual-search status --json`
"""


def command(*, data_dir: DataDir = None, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show the catalog, its collections with their models and counts, and the last runs."""
    settings = settings_from(config, data_dir)
    if not catalog_exists(settings):
        if as_json:
            print_json({"data_dir": str(settings.data_dir), "collections": [], "last_runs": []})
        else:
            console().print(f"nothing is indexed in {catalog_place(settings)} yet", markup=False, soft_wrap=True)
        return
    with catalog_of(settings) as catalog:
        overview = overview_of(catalog, settings)
    if as_json:
        print_json(overview.model_dump(mode="json"))
        return
    place = f"data folder {overview.data_dir}" if settings.database_url is None else f"database {overview.catalog}"
    console().print(
        f"{place} ({overview.catalog_bytes / 1e6:.1f} MB)",
        markup=False,
        soft_wrap=True,
    )
    print_table(
        ["collection", "images", "failures", "model", "changes"],
        [(one.name, str(one.images), str(one.failures), one.model, str(one.last_seq)) for one in overview.collections],
    )
    print_table(
        ["last runs", "state", "started", "source", "counts"],
        [
            (
                run.kind,
                run.state,
                run.started_at.strftime("%Y-%m-%d %H:%M:%S UTC"),
                run.source,
                ", ".join(f"{count} {name}" for name, count in run.counts.items() if count),
            )
            for run in overview.last_runs
        ],
    )

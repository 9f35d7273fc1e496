"""`visual-search up`: everything on this machine, in this terminal."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from query_service.http.listening import addresses_of
from visual_search.cli.options import ConfigFile, DataDir, settings_from
from visual_search.cli.output import ExitCode, error_console
from workers.machine.one_machine import Shares, page_address, run_everything, with_port

EXAMPLES = """
**Examples**

`visual-search up`, then in another terminal `visual-search submit ~/Pictures --wait`

`visual-search up --port 8700 --workers 2 --data-dir /srv/visual-search`
"""


def command(  # noqa: PLR0913 - one parameter per command-line option
    *,
    workers: Annotated[int, typer.Option("--workers", min=1, max=256, help="Embed workers; each loads the model.")] = 1,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            envvar="OMP_NUM_THREADS",
            min=1,
            help="Compute threads of each embed worker; by default what the query worker leaves.",
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", min=1, max=65_535, help="Port of the web page and HTTP API.  [env: VISUAL_SEARCH_HTTP_PORT]"
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Model that the workers load.  [env: VISUAL_SEARCH_MODEL]")
    ] = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
) -> None:
    """Run the whole system until Ctrl-C: embed workers, aggregator, schedules, query worker, web page and HTTP API.

    Without a `redis_url` a bundled Valkey is part of it.

    What crashes is started again. Ctrl-C lets every process finish what it has in hand; a second one kills.
    """
    given = settings_from(config, data_dir, model=model, http_port=port)
    addresses_of(given)  # refuses an open door without keys, which would let the role crash and start without end
    settings = with_port(given)
    where = f"web page at {page_address(settings)}, data folder {settings.data_dir}"
    error_console().print(f"{where}; Ctrl-C ends everything", markup=False, soft_wrap=True)
    if not run_everything(settings, Shares.of_the_cores(workers, threads), sys.stdout, config=config):
        raise typer.Exit(ExitCode.FAILED)

"""Runs a command and turns every expected error into one clear line and an exit code."""

from __future__ import annotations

import io
import logging
import sys

import typer

from storage.errors import VisualSearchError
from visual_search.cli.commands import MARKUP, AllCommands
from visual_search.cli.output import ExitCode, error_console, exit_code_of, print_error
from visual_search.version import __version__

app = typer.Typer(
    name="visual-search",
    cls=AllCommands,
    help="Exact image search over your own photos: by picture, by words, by similarity.\n\n"
    "Start with `visual-search index ~/Pictures`, then `visual-search search --text 'a red bicycle'`.",
    no_args_is_help=True,
    rich_markup_mode=MARKUP,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def root(
    *,
    version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True),  # noqa: FBT003
) -> None:
    """Hold the options of the command as a whole."""
    if version:
        typer.echo(f"visual-search {__version__}")
        raise typer.Exit


def main(arguments: list[str] | None = None) -> None:
    """Run the command; exit codes are in docs/getting-started.md."""
    given = sys.argv[1:] if arguments is None else arguments
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name the terminal cannot show must not end the command
    try:
        app(given)
    except VisualSearchError as error:
        print_error(error, as_json="--json" in given)
        sys.exit(exit_code_of(error))
    except (OSError, UnicodeError) as error:  # the outermost shell: a full disk behind >, an odd argument
        error_console().print(f"error: {error}", markup=False, soft_wrap=True)
        sys.exit(ExitCode.FAILED)
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
    except SystemExit as leaving:
        if leaving.code == ExitCode.INTERRUPTED:
            error_console().print("interrupted: what was finished is kept; the same command carries on")
        raise


if __name__ == "__main__":
    main()

"""The life of a role's process: log, settings, metrics, stop by signal, exit code. Knows no role."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from threading import Event

from storage.errors import VisualSearchError
from storage.settings import Settings, load_settings
from workers.machine.logs import configure_logging
from workers.signs.metrics import metrics_served

_log = logging.getLogger(__name__)


def run_role(role: str, run: Callable[[Settings, Event], None]) -> int:
    """Run a role with the settings of the environment and the TOML file; returns the exit code.

    SIGTERM and SIGINT set the event: `run` is to return soon then. A VisualSearchError is one line and exit code 1.
    """
    stop = Event()

    def run_until_stopped(settings: Settings) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        run(settings, stop)

    return run_process(role, run_until_stopped)


def run_process(role: str, run: Callable[[Settings], None]) -> int:
    """As `run_role`, for a role whose framework minds the signals itself."""
    configure_logging(role, "text")  # until the settings are known: they may be what is wrong
    try:
        settings = load_settings()
        configure_logging(role, settings.log_format)
        with metrics_served(settings):
            run(settings)
    except VisualSearchError as error:
        _log.error("%s: %s", error.reason, error)
        return 1
    except Exception:  # noqa: BLE001 - the outermost shell: with the log format of the others, then the end
        _log.exception("%s ended by an error that nobody expected", role)
        return 1
    return 0

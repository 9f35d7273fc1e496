"""The probe of a container: `python -m workers.probe [--ready]` judges its processes by what they left in it.

Asks neither Redis nor SQL: when these are away, a restart of everybody else helps nobody. Loads nothing heavy.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from storage.errors import SettingsError
from storage.settings import load_settings
from workers.signs.health import health_here


def main(arguments: Sequence[str] | None = None) -> int:
    """Print each process; 0 when all is well, 1 when one is stuck, missing or (`--ready`) still loading."""
    parser = argparse.ArgumentParser(prog="python -m workers.probe", description=__doc__)
    parser.add_argument("--ready", action="store_true", help="1 also while a process loads what it is to work with")
    ready = parser.parse_args(arguments).ready
    try:
        here = health_here(load_settings())
    except SettingsError as error:
        sys.stderr.write(f"{error.reason}: {error}\n")
        return 1
    for role in here.roles:
        sys.stdout.write(
            f"{role.role} {role.process} {role.state}, {role.doing or role.trouble or 'nothing in hand'}\n"
        )
    if not here.roles:
        sys.stdout.write("no process has left a sign here\n")
    return 0 if (here.ready if ready else here.healthy) else 1


if __name__ == "__main__":
    sys.exit(main())

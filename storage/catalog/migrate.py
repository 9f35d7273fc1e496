"""`python -m storage.catalog.migrate`: bring the schema of the configured catalog up to date, and nothing else.

Every process does that when it opens the catalog. As a step of its own a deployment sees it fail before any starts.
"""

from __future__ import annotations

import logging
import sys

from storage.catalog import catalog_of
from storage.errors import VisualSearchError
from storage.settings import load_settings

_LOG = logging.getLogger(__name__)


def main() -> int:
    """Open and close the catalog of the settings; 1 when that fails."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)  # it names each of its own parts
    try:
        catalog_of(load_settings()).close()
    except VisualSearchError as error:
        _LOG.error("%s: %s", error.reason, error)
        return 1
    _LOG.info("the schema is up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The command with a slow disk: a run that is to be met in the middle of its work lasts long enough on any machine."""

from __future__ import annotations

import sys

READ_SECONDS = 0.1  # each picture

_PROGRAM = f"""
import time
from storage.images.local import LocalStorage
from visual_search.cli.app import main

get = LocalStorage.get
def slowly(self, key):
    time.sleep({READ_SECONDS})
    return get(self, key)
LocalStorage.get = slowly
main()
"""

SLOWLY = [sys.executable, "-c", _PROGRAM]  # then its arguments; the same as `python -m visual_search` but for the time

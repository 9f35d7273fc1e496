"""`python -m pipeline.embedders.identify`: says which model this is, for processes that must not load any.

Reads {"model", "device", "dtype", "backend", "decoding"} as JSON from standard input; the last line that it writes is
{"identity": ...} or {"error": {"reason", "message"}}.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from pipeline.embedders.registry import load_embedder
from storage.errors import VisualSearchError


def main() -> None:
    """Load the model once, and write its identity."""
    asked = json.load(sys.stdin)
    answer: dict[str, Any]
    try:
        embedder = load_embedder(asked.pop("model"), **asked)
        answer = {"identity": embedder.identity.model_dump(mode="json")}
    except VisualSearchError as error:
        answer = {"error": {"reason": error.reason, "message": str(error)}}
    sys.stdout.write(f"\n{json.dumps(answer)}\n")


if __name__ == "__main__":
    main()

"""Which model a name means, in every detail. Only loading it tells, and a process of its own does that.

So those who submit jobs, the HTTP API above all, never hold a model in memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from pipeline.embedders.baseline import BASELINE_NAME, BaselineEmbedder
from pipeline.errors import ModelError, ModelUnavailable, UnsupportedModel
from storage.records import ModelIdentity
from storage.settings import Settings

_PROGRAM = "pipeline.embedders.identify"
_KINDS = {kind.reason: kind for kind in (ModelUnavailable, UnsupportedModel)}


def identity_of(model: str, settings: Settings) -> ModelIdentity:
    """Take some seconds, but for `baseline`. Raises ModelUnavailable, UnsupportedModel, ModelError."""
    if model == BASELINE_NAME:
        return BaselineEmbedder().identity
    how = {name: getattr(settings, name) for name in ("device", "dtype", "backend", "decoding")}
    asked = json.dumps({"model": model, **how})
    command = [sys.executable, "-m", _PROGRAM]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)  # noqa: S603 - our own program
    answer = _answer(done.stdout)
    if "identity" in answer:
        return ModelIdentity.model_validate(answer["identity"])
    if "error" in answer:
        raise _KINDS.get(answer["error"]["reason"], ModelError)(answer["error"]["message"])
    raise ModelError(f"the model {model} could not be identified ({done.returncode}): {_last_line(done.stderr)}")


def _answer(output: str) -> dict[str, Any]:
    try:
        answer = json.loads(_last_line(output))
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]

"""Which model a name means, told by a process of its own: the asker loads none."""

from __future__ import annotations

import subprocess
import sys

import pytest
from checkpoints import save_tiny_clip
from servers import ROOT

from pipeline.embedders.registry import load_embedder
from pipeline.errors import ModelUnavailable
from storage.settings import Settings
from workers.submitting.model_identity import identity_of


def test_the_process_says_what_loading_it_here_says(tmp_path):
    model = str(save_tiny_clip(tmp_path / "clip"))
    settings = Settings(data_dir=tmp_path, device="cpu")
    assert identity_of(model, settings) == load_embedder(model, device="cpu").identity
    assert identity_of("baseline", settings) == load_embedder("baseline").identity


def test_a_model_that_cannot_be_had_is_told_with_its_reason(tmp_path):
    with pytest.raises(ModelUnavailable, match="no-such-folder"):
        identity_of(str(tmp_path / "no-such-folder"), Settings(data_dir=tmp_path))


def test_the_asker_loads_no_model():
    code = "import sys, workers.submitting.model_identity; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0

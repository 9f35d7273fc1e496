"""Where settings come from, and what is refused."""

from pathlib import Path

import pytest

from storage.errors import SettingsError
from storage.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def _clean(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VISUAL_SEARCH_CONFIG", raising=False)
    for name in Settings.model_fields:
        monkeypatch.delenv(f"VISUAL_SEARCH_{name.upper()}", raising=False)


def test_a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default(monkeypatch, tmp_path):
    (tmp_path / "visual-search.toml").write_text('model = "file"\ncollection = "file"\ndevice = "cpu"\n')
    monkeypatch.setenv("VISUAL_SEARCH_MODEL", "environment")
    monkeypatch.setenv("VISUAL_SEARCH_COLLECTION", "environment")
    settings = load_settings(model="flag", collection=None)
    assert (settings.model, settings.collection, settings.device) == ("flag", "environment", "cpu")
    assert settings.commit_images == 256


def test_the_settings_know_which_fields_were_given():
    assert "model" in load_settings(model="baseline").model_fields_set
    assert "model" not in load_settings().model_fields_set


def test_a_named_file_is_read_and_a_missing_one_refused(monkeypatch, tmp_path):
    named = tmp_path / "other.toml"
    named.write_text("commit_images = 7\n")
    assert load_settings(named).commit_images == 7
    monkeypatch.setenv("VISUAL_SEARCH_CONFIG", str(named))
    assert load_settings().commit_images == 7
    with pytest.raises(SettingsError, match="no configuration file"):
        load_settings(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("comit_images = 7\n", "unknown setting 'comit_images'"),
        ("commit_images = 0\n", "setting 'commit_images'"),
        ('device = "tpu"\n', "setting 'device'"),
        ("device = \n", "not valid TOML"),
    ],
)
def test_a_wrong_value_in_the_file_is_named(tmp_path, text, message):
    (tmp_path / "visual-search.toml").write_text(text)
    with pytest.raises(SettingsError, match=message):
        load_settings()


def test_a_misspelt_variable_is_refused_instead_of_ignored(monkeypatch):
    monkeypatch.setenv("VISUAL_SEARCH_COLECTION", "x")
    with pytest.raises(SettingsError, match="VISUAL_SEARCH_COLECTION"):
        load_settings()


def test_the_home_folder_is_expanded():
    assert load_settings(data_dir="~/photos").data_dir == Path.home() / "photos"

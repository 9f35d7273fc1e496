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


def test_secrets_are_read_from_files_after_the_environment_and_before_the_file(monkeypatch, tmp_path):
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "visual_search_redis_url").write_text("rediss://:hidden@redis/0\n")
    (folder / "VISUAL_SEARCH_MODEL").write_text("secret")
    (folder / "visual_search_collection").write_text("secret")
    (folder / "another_programs_secret").write_text("x")
    (tmp_path / "visual-search.toml").write_text('model = "file"\n')
    monkeypatch.setenv("VISUAL_SEARCH_SECRETS_DIR", str(folder))
    monkeypatch.setenv("VISUAL_SEARCH_COLLECTION", "environment")
    settings = load_settings()
    assert settings.redis_url.get_secret_value() == "rediss://:hidden@redis/0"
    assert (settings.model, settings.collection) == ("secret", "environment")


def test_a_misspelt_secret_or_folder_of_secrets_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("VISUAL_SEARCH_SECRETS_DIR", str(tmp_path))
    (tmp_path / "visual_search_redis_ulr").write_text("redis://:hidden@redis/0")
    with pytest.raises(SettingsError, match="unknown file in .*visual_search_redis_ulr") as caught:
        load_settings()
    assert "hidden" not in str(caught.value)
    monkeypatch.setenv("VISUAL_SEARCH_SECRETS_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(SettingsError, match="no folder"):
        load_settings()


def test_a_misspelt_variable_is_refused_instead_of_ignored(monkeypatch):
    monkeypatch.setenv("VISUAL_SEARCH_COLECTION", "x")
    with pytest.raises(SettingsError, match="VISUAL_SEARCH_COLECTION"):
        load_settings()


def test_the_home_folder_is_expanded():
    assert load_settings(data_dir="~/photos").data_dir == Path.home() / "photos"


def test_an_address_with_a_password_is_shown_nowhere(monkeypatch):
    monkeypatch.setenv("VISUAL_SEARCH_REDIS_URL", "redis://:hidden@host/0")
    settings = load_settings(database_url="postgresql://me:hidden@host/db")
    assert settings.redis_url.get_secret_value() == "redis://:hidden@host/0"
    assert "hidden" not in repr(settings) + settings.model_dump_json() + str(settings.model_dump())


@pytest.mark.parametrize("name", ["redis_url", "database_url"])
def test_an_address_of_another_kind_is_refused_without_repeating_it(name):
    with pytest.raises(SettingsError, match=f"setting '{name}'.*begins with") as caught:
        load_settings(**{name: "http://:hidden@host"})
    assert "hidden" not in str(caught.value)


def test_schedules_are_read_from_the_file(tmp_path):
    (tmp_path / "visual-search.toml").write_text(
        '[[schedules]]\ncron = "0 3 * * *"\naction = "sync"\nsource = "/photos"\nmirror = true\n'
    )
    (schedule,) = load_settings().schedules
    assert (schedule.cron, schedule.action, schedule.source, schedule.mirror) == ("0 3 * * *", "sync", "/photos", True)
    assert load_settings().model_dump(mode="json")["schedules"][0]["collection"] is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('cron = "0 3 * *"\naction = "sync"\nsource = "/p"\n', "schedules.0.cron.*five fields"),
        ('cron = "0 3 * * *"\naction = "drop"\nsource = "/p"\n', "schedules.0.action"),
        ('cron = "0 3 * * *"\naction = "sync"\nsuorce = "/p"\n', "schedules.0.s"),
    ],
)
def test_a_wrong_schedule_is_named(tmp_path, text, message):
    (tmp_path / "visual-search.toml").write_text(f"[[schedules]]\n{text}")
    with pytest.raises(SettingsError, match=message):
        load_settings()

"""`visual-search settings`: every setting, its value here, its variable and what it means."""

from __future__ import annotations

from storage.settings import Settings
from visual_search.cli.options import AsJson, ConfigFile, DataDir, settings_from
from visual_search.cli.output import print_json, print_table

EXAMPLES = """
**Examples**

`visual-search settings --json`

`VISUAL_SEARCH_MODEL=baseline visual-search settings`
"""


def command(*, data_dir: DataDir = None, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show every setting with its value here: flag, then VISUAL_SEARCH_* variable, then TOML file, then default."""
    values = settings_from(config, data_dir).model_dump(mode="json")
    if as_json:
        print_json(values)
        return
    rows = [
        (f"VISUAL_SEARCH_{name.upper()}", str(values[name]), field.description or "")
        for name, field in Settings.model_fields.items()
    ]
    print_table(["variable", "value", "meaning"], rows)

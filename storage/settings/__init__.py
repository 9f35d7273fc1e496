"""The settings: each stands in its group's file with description, default and limits; `reading` finds the values.

Precedence: command-line flag, then `VISUAL_SEARCH_*` variable, then a file of that name in the folder that
VISUAL_SEARCH_SECRETS_DIR names (as Docker and Kubernetes mount secrets), then the TOML file, then the default.
Credentials for S3 are boto3's own affair (AWS_* variables, ~/.aws, instance roles) and never pass through here.
"""

from storage.settings.all_settings import Settings
from storage.settings.entries import ApiKey, Schedule
from storage.settings.indexing import DEFAULT_MAX_IMAGE_PIXELS, DEFAULT_MODEL
from storage.settings.reading import allowed_threads, load_settings

__all__ = [
    "DEFAULT_MAX_IMAGE_PIXELS",
    "DEFAULT_MODEL",
    "ApiKey",
    "Schedule",
    "Settings",
    "allowed_threads",
    "load_settings",
]

"""The `visual-search` command: one file per command, thin shells over `ImageCollection`."""

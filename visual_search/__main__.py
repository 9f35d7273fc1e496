"""Lets `python -m visual_search` run the command."""

from visual_search.cli.app import main

main()

"""The way of a search and its reply through Redis, as the asking side sees it."""

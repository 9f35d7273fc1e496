"""Asks: query worker, clients, HTTP API, web page (docs/architecture.md says what stands)."""

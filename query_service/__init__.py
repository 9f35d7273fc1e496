"""Asks: query worker, clients, HTTP API and web page (see docs/architecture.md for what stands already)."""

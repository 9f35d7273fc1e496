"""Asks: the protocol of searches over Redis, the query worker, clients, the HTTP API and the web page."""

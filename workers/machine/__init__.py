"""Processes: how a role starts, logs and stops, and how one machine runs them all."""

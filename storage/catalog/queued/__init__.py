"""Queued work in SQL: jobs, their batches, leases and results."""

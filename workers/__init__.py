"""Run: the Celery app, its thin tasks, the aggregator and the schedules (see docs/architecture.md for what stands already)."""

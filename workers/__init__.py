"""Run: the Celery app, thin tasks, the aggregator, the schedules (docs/architecture.md says what stands)."""

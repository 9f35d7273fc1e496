"""From a source to a job whose batches are in SQL and sent."""

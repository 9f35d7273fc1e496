"""The database beneath the catalog: connections, dialects, statements for many rows. Knows no images and no jobs."""

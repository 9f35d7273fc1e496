"""The query worker's parts: taking searches, following collections, replying."""

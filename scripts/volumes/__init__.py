"""Commands that read files: ingest and predict."""

"""Commands that read volumes from files."""

"""The `flysoma` command and what only an operator runs."""

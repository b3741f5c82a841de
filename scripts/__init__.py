"""The `flysoma` command."""

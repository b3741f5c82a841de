"""Copies of a finished run for other people."""

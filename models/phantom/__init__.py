"""Synthetic EM of fly brain with exact labels."""

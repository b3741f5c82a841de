"""Verdicts of people on the somas of a finished run."""

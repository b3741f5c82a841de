"""The table of somas and the checks made on it."""

"""Benchmarks: they print measurements, without limits to pass."""

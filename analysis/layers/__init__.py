"""Neuroglancer annotation layers and segment properties."""

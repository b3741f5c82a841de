"""Neuroglancer annotation layers, segment properties and links to neurons."""

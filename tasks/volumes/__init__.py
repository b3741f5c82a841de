"""Precomputed layers, files and the geometry of blocks: how voxels are read and written."""

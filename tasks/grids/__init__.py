"""Boxes, blocks and tiles of a volume, and resampling between voxel sizes."""

"""Precomputed layers: image and labels, chunks, shards, tissue."""

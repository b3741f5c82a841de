"""Scores of a segmentation against ground truth."""

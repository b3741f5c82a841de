"""How good a segmentation is, compared with a ground truth."""

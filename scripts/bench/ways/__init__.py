"""Ways to get from an image to somas that benchmarks compare."""

"""Read and write the formats of files: arrays in the order of the file, and what the file states about them."""

"""Files, sections and samples of volumes, and their conversion to layers."""

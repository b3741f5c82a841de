"""The look of an image: its texture in tissue, measured without labels."""

"""From an image to somas: windows of a network, seeds, and instances."""

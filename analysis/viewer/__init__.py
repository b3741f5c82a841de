"""Neuroglancer: states and links, a local server of layers, and a headless browser for screenshots."""

"""Neuroglancer states, links and the local server of layers."""

"""The classes of somas."""

NEURON, GLIA, OTHER = CLASSES = ("neuron", "glia", "other")  # other: without a nucleus

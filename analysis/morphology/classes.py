"""The classes of somas."""

from typing import Literal, get_args

SomaClass = Literal["neuron", "glia", "other"]  # other: without a nucleus
CLASSES: tuple[SomaClass, ...] = get_args(SomaClass)
NEURON, GLIA, OTHER = CLASSES

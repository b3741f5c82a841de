"""Find every neuron cell body (soma) in a brain-sized EM volume."""

import os

os.environ.setdefault(
    "THP_MEM_ALLOC_ENABLE", "1"
)  # huge pages for tensors; torch reads it on import

__version__ = "0.2.0"

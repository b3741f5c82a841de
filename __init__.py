"""Find every neuron cell body (soma) in a brain-sized EM volume."""

import os

# huge pages for tensors; torch reads it on import
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

__version__ = "0.3.0"

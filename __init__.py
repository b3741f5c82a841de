"""flysoma finds every neuron cell body (soma) in a brain-sized EM volume and publishes them."""

import os

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # large pages for tensors, before torch starts

__version__ = "0.1.0"

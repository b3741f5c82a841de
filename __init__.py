"""flysoma finds every neuron cell body (soma) in a brain-sized EM volume and publishes them."""

__version__ = "0.1.0"

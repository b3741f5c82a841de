"""The networks, their weights files, and the engines that run them."""

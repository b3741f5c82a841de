"""Reports and other pages, and the figures in them."""

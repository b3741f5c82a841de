"""Methods that segment somas, for comparison."""

"""The shape of each soma."""

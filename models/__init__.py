"""Networks and label arithmetic: arrays in, arrays out. Everything is z, y, x."""

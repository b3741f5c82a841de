"""Commands that show, compare, evaluate and publish results."""

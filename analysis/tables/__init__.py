"""The table of somas, its plausibility checks, and the links from somas to neurons."""

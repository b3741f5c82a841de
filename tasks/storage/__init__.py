"""The small objects of a run: stores, versions, checksums, damage, credentials."""

"""How an image looks where there is tissue, measured without labels."""

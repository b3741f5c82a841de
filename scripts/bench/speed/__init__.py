"""`flysoma bench speed`: how fast each part is."""

"""What the commands on a finished run compute: a view, a comparison, scores."""

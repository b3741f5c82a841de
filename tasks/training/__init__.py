"""What joins training to volumes and to the scores of whole somas."""

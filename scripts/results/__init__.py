"""Commands that show, publish, score and compare results."""

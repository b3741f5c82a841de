"""HTML pages (report, evaluation, comparison) and their figures."""

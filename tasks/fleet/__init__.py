"""Execution of a run's tasks: queues, workers, and the records of attempts."""

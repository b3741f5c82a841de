"""Execution of a run's tasks: queues, workers, the coordinator, and the records of attempts."""

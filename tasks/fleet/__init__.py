"""Who does the tasks of a run: queues, workers, the coordinator, and records of attempts."""

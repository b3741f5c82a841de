"""The two ways in which a command ends badly."""


class UserError(Exception):
    """Something only the user can put right; the command line prints the message and exits with 2."""


class TasksFailed(Exception):
    """Tasks of a stage failed for the last time; the command line prints the message and exits with 1."""

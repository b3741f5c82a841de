"""The one exception for a user's mistake: a single line that says what was asked, what is there, what to do."""


class UserError(Exception):
    """Something only the user can put right; the command line prints the message and exits with 2."""

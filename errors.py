"""The errors that a command reports in one line, and what is taken out of every message."""

from __future__ import annotations

import os
import re


class UserError(Exception):
    """An error that only the user can correct; the command prints the message and exits with 2."""


class TasksFailed(Exception):
    """Tasks of a stage failed permanently; the command prints the message and exits with 1."""


class HostError(Exception):
    """This machine cannot do what another one can; a worker gives its tasks back, and exits with 3."""


def redact_secrets(text: str) -> str:
    """Replace values of environment variables named KEY, SECRET, TOKEN or PASSWORD by the variables' names."""
    for name, value in os.environ.items():
        if _SECRET.search(name) and len(value) >= _MIN_SECRET_LENGTH:
            text = text.replace(value, f"[{name}]")
    return text


_SECRET = re.compile(r"(KEY|SECRET|TOKEN|PASSWORD)(?!.*_FILE$)", re.I)
_MIN_SECRET_LENGTH = 8

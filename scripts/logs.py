"""What a worker says: a line of JSON each, or words for people."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from ..errors import redact_secrets


class Words(logging.Formatter):
    """What happened, as people read it."""

    def format(self, record: logging.LogRecord) -> str:
        return redact_secrets(super().format(record))


class JsonLines(logging.Formatter):
    """A line of JSON a record, with the record's `fields` in it."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        entry = {"time": time, "level": record.levelname, "message": record.getMessage()}
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return redact_secrets(json.dumps(entry | getattr(record, "fields", {})))


def log_tasks(quiet: bool) -> None:
    """Every task as a line of JSON on stdout; quiet: only what went wrong, in words, on stderr."""
    handler = logging.StreamHandler(sys.stderr if quiet else sys.stdout)
    handler.setFormatter(Words() if quiet else JsonLines())
    logger = logging.getLogger("flysoma")
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.INFO)

"""Log formats of a worker: lines of JSON, or text for people."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from ..errors import redact_secrets


class TextFormatter(logging.Formatter):
    """Formats a record as text, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return redact_secrets(super().format(record))


class JsonFormatter(logging.Formatter):
    """Formats a record as a line of JSON that includes the record's `fields`, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        entry = {"time": time, "level": record.levelname, "message": record.getMessage()}
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return redact_secrets(json.dumps(entry | getattr(record, "fields", {})))


def log_warnings() -> None:
    """Log warnings and errors of all libraries as text on stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(TextFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


def log_tasks() -> None:
    """Log what flysoma does, each task among it, as lines of JSON on stdout."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("flysoma")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # or stderr would repeat each warning

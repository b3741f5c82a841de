"""How long work shows itself: a bar a step on a terminal, a line a step elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import click
from tqdm import tqdm


class Bars:
    """Called with a step's name, how much of it is done, and of how much; a context manager.

    >>> with Bars() as bars:
    ...     bars("mip 0", 1, 1)
    """

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._step = ""

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __call__(self, step: str, done: int, total: int) -> None:
        if sys.stderr.isatty():
            if step != self._step or self._bar is None:
                self.__exit__()
                self._bar = tqdm(total=total, desc=f"{step:12}")
            self._bar.update(done - self._bar.n)
        elif done == total:
            click.echo(f"{step}: {total}", err=True)
        self._step = step

    def say(self, text: str) -> None:
        """A line for people, above the bar."""
        tqdm.write(text, file=sys.stderr)


def print_table(
    rows: list[dict[str, Any]], as_json: bool, head: str, line: Callable[[dict[str, Any]], str]
) -> None:
    """Rows as JSON, or as lines below a head."""
    click.echo(json.dumps(rows) if as_json else "\n".join([head, *map(line, rows)]))

"""Progress on stderr: a bar for each step on a terminal, a line for each step elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import click
from tqdm import tqdm


class Bars:
    """A context manager to call with the name of a step, the amount done, and the total.

    >>> with Bars() as bars:
    ...     bars("mip 0", 1, 1)
    """

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
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
        """Print a line above the bar."""
        tqdm.write(text, file=sys.stderr)


def print_table(
    rows: list[dict[str, Any]], as_json: bool, head: str, line: Callable[[dict[str, Any]], str]
) -> None:
    """Print rows as JSON, or as lines below a heading."""
    click.echo(json.dumps(rows) if as_json else "\n".join([head, *map(line, rows)]))

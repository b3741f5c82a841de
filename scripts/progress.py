"""How long work shows itself: a bar a step on a terminal, a line a step elsewhere."""

from __future__ import annotations

import sys

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

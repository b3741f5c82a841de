"""The time that a program spends in some of its functions."""

from __future__ import annotations

import functools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

Places = Mapping[str, tuple[tuple[Any, str], ...]]  # name: (owner, attribute) of each function


@contextmanager
def clocked(places: Places) -> Iterator[dict[str, float]]:
    """Count the seconds spent in functions, by name and over all threads; nested calls count for the inner one only."""
    spent: dict[str, float] = defaultdict(float)
    inner = threading.local()

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            before, inner.seconds = getattr(inner, "seconds", 0.0), 0.0
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                seconds = time.perf_counter() - start
                spent[name] += seconds - inner.seconds
                inner.seconds = before + seconds

        return call

    with ExitStack() as stack:
        for name, functions in places.items():
            for owner, attribute in functions:
                replaced = timed(name, getattr(owner, attribute))
                stack.enter_context(mock.patch.object(owner, attribute, replaced))
        yield spent

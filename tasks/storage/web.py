"""Requests to web servers end after a time without an answer; those of cloud-files would wait for ever."""

from __future__ import annotations

from typing import Any

from cloudfiles.interfaces import HttpInterface

TIMEOUT_S = 10.0, 30.0  # to connect; without a byte of the answer

_send = HttpInterface.adaptor.send


def _send_with_timeout(request: Any, **settings: Any) -> Any:
    return _send(request, **settings | {"timeout": TIMEOUT_S})


HttpInterface.adaptor.send = _send_with_timeout

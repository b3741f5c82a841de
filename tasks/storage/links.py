"""Links inside a run's folder: nothing is written or deleted through them.

Who may write to a run must not be able to direct the writes of a worker, which may have more rights, to other places.
cloud-volume and igneous write through cloud-files, so the check is in its class for files.
"""

from __future__ import annotations

import os
from typing import Any

from cloudfiles.interfaces import FileInterface

from ...errors import UserError

_guarded: set[str] = set()
_put_file, _delete_file = FileInterface.put_file, FileInterface.delete_file


def guard(folder: str) -> None:
    """Refuse from now on to write or delete through links below a folder; the folder itself may be a link."""
    _guarded.add(folder)


def check_path(path: str) -> None:
    """Raise UserError if the way from a guarded folder to a path leads through a link."""
    for folder in _guarded:
        if path.startswith(f"{folder}/"):
            inside = os.path.relpath(path, folder)
            if os.path.realpath(path) != os.path.join(os.path.realpath(folder), inside):
                raise UserError(
                    f"{path} is a link or lies behind one, and nothing is written through links inside {folder}; "
                    "replace the link by what it points to"
                )


def _checked_put(self: Any, file_path: str, content: Any, *args: Any, **kwargs: Any) -> Any:
    path = self.get_path_to_file(file_path)
    compress = args[1] if len(args) > 1 else kwargs.get("compress")
    for name in {path, path + self.get_extension(compress)}:
        check_path(name)
    return _put_file(self, file_path, content, *args, **kwargs)


def _checked_delete(self: Any, file_path: str) -> Any:
    check_path(os.path.dirname(self.get_path_to_file(file_path)))
    return _delete_file(self, file_path)


FileInterface.put_file, FileInterface.delete_file = _checked_put, _checked_delete

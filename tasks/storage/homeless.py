"""Users without a home, or with one that is read-only: libraries that want to make folders there are told otherwise."""

from __future__ import annotations

import os
import tempfile


def spare_home() -> None:
    """Keep cloud-volume from making `~/.cloudvolume` where it cannot; call it before its import.

    cloud-volume looks for secrets in / too.
    """
    if not _is_home_usable() and not os.path.isdir(os.path.expanduser("~/.cloudvolume")):
        os.environ.setdefault("CLOUD_VOLUME_DIR", "/")


def import_taskqueue() -> None:
    """Import taskqueue, which makes folders for secrets in the home; flysoma does not read what lies in them.

    Call it before the import of igneous, which imports taskqueue.
    """
    if _is_home_usable():
        import taskqueue  # noqa: F401

        return
    before = os.environ.get("HOME")
    with tempfile.TemporaryDirectory(prefix="flysoma-home-") as folder:
        os.environ["HOME"] = folder
        try:
            import taskqueue  # noqa: F401
        finally:
            if before is None:
                del os.environ["HOME"]
            else:
                os.environ["HOME"] = before


def _is_home_usable() -> bool:
    home = os.path.expanduser("~")  # "~" where neither HOME nor the user database names one
    return os.path.isabs(home) and os.access(home, os.W_OK | os.X_OK)

"""Screenshots of a viewer by a headless chromium."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import UserError

if TYPE_CHECKING:
    import neuroglancer

_WAIT_S = 90.0
_BROWSER_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--hide-scrollbars",
)


def save_screenshot(
    viewer: neuroglancer.Viewer,
    file: str | Path,
    size: tuple[int, int] = (1600, 1000),
    wait_s: float = _WAIT_S,
) -> None:
    """Write a PNG of a viewer after everything has loaded, drawn by a headless chromium.

    Raises:
      UserError: chromium or its driver is not installed, or nothing is drawn within `wait_s` seconds.
    """
    with open_browser(size) as driver:
        with viewer.txn() as state:
            state.selected_layer.visible = False  # the side panel
        driver.get(viewer.get_viewer_url())
        replies: list[Any] = []
        capture = threading.Thread(
            target=lambda: replies.append(viewer.screenshot(size=list(size))), daemon=True
        )
        capture.start()
        capture.join(wait_s)
        if not replies:
            raise UserError(
                f"neuroglancer did not finish drawing within {wait_s:g} s; open the layers with 'flysoma view'"
            )
        Path(file).write_bytes(replies[0].screenshot.image)


def find_browser() -> tuple[str, str] | None:
    """Return the paths of chromium and its driver, or None if either is missing."""
    browser = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


@contextmanager
def open_browser(size: tuple[int, int]) -> Iterator[Any]:
    """Open a headless chromium that records console messages; yield its selenium driver.

    Raises:
      UserError: chromium, its driver or selenium is not installed.
    """
    paths = find_browser()
    if paths is None:
        raise UserError(
            "a screenshot needs chromium and its driver, which are not installed; "
            "on Debian: apt-get install chromium chromium-driver"
        )
    try:
        from selenium import webdriver
        from selenium.common.exceptions import WebDriverException
    except ImportError as err:
        raise UserError(
            "a screenshot needs selenium, which is not installed: pip install selenium"
        ) from err
    options = webdriver.ChromeOptions()
    options.binary_location = paths[0]
    for flag in (*_BROWSER_FLAGS, f"--window-size={size[0]},{size[1] + 100}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=paths[1])
    try:
        driver = webdriver.Chrome(options=options, service=service)
    except WebDriverException as err:
        reason = (err.msg or "no reason given").splitlines()[0]
        raise UserError(f"chromium did not start: {reason}") from err
    try:
        yield driver
    finally:
        driver.quit()

"""Neuroglancer on a result: its state, a link that holds it, a viewer of our own, a picture of it.

Positions and voxel sizes are x, y, z in nm.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ...axes import Nm3
from ...errors import UserError
from ..layers.annotations import link_layer
from ..layers.quality import quality_layer
from .server import LayerServer, serve

if TYPE_CHECKING:
    import neuroglancer

__all__ = [
    "PUBLIC_VIEWER",
    "Layers",
    "LayerServer",
    "browser",
    "link",
    "open_viewer",
    "screenshot",
    "serve",
    "source_url",
    "viewer_state",
]


PUBLIC_VIEWER = "https://neuroglancer-demo.appspot.com"
_log = logging.getLogger(__name__)
_PANEL_PX = 420.0  # about a panel's height on a screen
_TILTED = [-0.36, -0.22, -0.09, 0.9]  # quaternion: the 3D view from above and aside
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


@dataclass(frozen=True)
class Layers:
    """What a view shows. Sources are neuroglancer's, such as precomputed://gs://bucket/run/somas.

    Attributes:
      somas: the segmentation, with its meshes and segment properties.
      image: the EM volume, or None.
      centroids: the annotation layer, or None.
      bounds_nm: lower and upper corner of the volume, x, y, z.
      image_range: grey values shown as black and white.
      quality: the annotation layer of blocks, hidden at first, or None.
      beside: another segmentation of the same volume, shown too, or None.
      selected: segments whose meshes the 3D panel shows from the start; in sections only they are coloured.
        Empty: all are coloured, the 3D panel shows the centroids, and a double click a mesh.
    """

    somas: str
    bounds_nm: tuple[Nm3, Nm3]
    image: str | None = None
    centroids: str | None = None
    quality: str | None = None
    beside: str | None = None
    image_range: tuple[int, int] = (0, 255)
    selected: Sequence[int | str] = ()


def source_url(cloudpath: str, root: str = "", served: str = "") -> str:
    """Neuroglancer's name of a layer: precomputed://gs://... for a bucket.

    A layer on this machine's disk is named by the server that gives it out: `root` is the folder that is served
    and `served` its URL. Raises UserError for a local layer that no server reaches.
    """
    path = cloudpath.removeprefix("precomputed://").rstrip("/")
    protocol, found, rest = path.partition("://")
    if found and protocol != "file":
        return f"precomputed://{path}"
    local = Path(rest if found else path).resolve()
    if not root or not served or not local.is_relative_to(Path(root).resolve()):
        raise UserError(
            f"{cloudpath} lies on this machine's disk, where a browser elsewhere cannot read it; "
            "copy it to a bucket, or open it here with 'flysoma view RUN'"
        )
    return f"precomputed://{served}/{quote(local.relative_to(Path(root).resolve()).as_posix())}"


def viewer_state(layers: Layers, *, position_nm: Nm3 | None = None) -> dict[str, Any]:
    """Neuroglancer's state as JSON: four panels, the whole volume in view, 1 nm units.

    Args:
      layers: what to show.
      position_nm: centre of the view; the volume's centre by default.
    """
    low, high = layers.bounds_nm
    extent = [max(b - a, 1.0) for a, b in zip(low, high)]
    centre = position_nm or tuple((a + b) / 2 for a, b in zip(low, high))
    state: dict[str, Any] = {
        "dimensions": {a: [1e-9, "m"] for a in "xyz"},
        "position": [float(v) for v in centre],
        "crossSectionScale": max(extent[:2]) / _PANEL_PX,
        "projectionScale": 1.1 * math.hypot(*extent),
        "projectionOrientation": _TILTED,
        "layers": _layers(layers),
        "layout": "4panel",
        "showSlices": False,
        "crossSectionBackgroundColor": "#000000",
        "selectedLayer": {"visible": True, "layer": "somas"},
    }
    return state


def link(state: dict[str, Any], base_url: str = PUBLIC_VIEWER) -> str:
    """A URL that opens the state in a neuroglancer that is served somewhere."""
    text = json.dumps(state, separators=(",", ":"))
    return f"{base_url.rstrip('/')}/#!{quote(text, safe='~@$()*!+=:;,./')}"


def open_viewer(state: dict[str, Any], port: int = 0) -> neuroglancer.Viewer:
    """A viewer that this process serves on 127.0.0.1; `viewer.get_viewer_url()` opens it.

    It lives as long as the process. The URL holds a token, so that other users of the machine cannot guess it.
    """
    import neuroglancer

    neuroglancer.set_server_bind_address("127.0.0.1", bind_port=port)
    viewer = neuroglancer.Viewer()
    viewer.set_state(neuroglancer.ViewerState(state))
    return viewer


def screenshot(
    viewer: neuroglancer.Viewer,
    file: str | Path,
    size: tuple[int, int] = (1600, 1000),
    wait_s: float = _WAIT_S,
) -> None:
    """Write a PNG of what a viewer shows once everything has loaded, drawn by a headless chromium.

    Raises UserError when chromium or its driver is not installed, or nothing is drawn within `wait_s` seconds.
    """
    with browser(size) as driver:
        with viewer.txn() as state:
            state.selected_layer.visible = False  # the side panel
        driver.get(viewer.get_viewer_url())
        reply: list[Any] = []
        shot = threading.Thread(
            target=lambda: reply.append(viewer.screenshot(size=list(size))), daemon=True
        )
        shot.start()
        shot.join(wait_s)
        if not reply:
            raise UserError(
                f"neuroglancer drew nothing within {wait_s:g} s; look at the layers with 'flysoma view'"
            )
        Path(file).write_bytes(reply[0].screenshot.image)


def find_browser() -> tuple[str, str] | None:
    """Paths of chromium and its driver, or None when either is missing."""
    browser = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


@contextmanager
def browser(size: tuple[int, int]) -> Iterator[Any]:
    """selenium's driver of a headless chromium, which remembers what pages say on their console.

    Raises UserError when chromium, its driver or selenium is not installed.
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
        first = (err.msg or "no reason given").splitlines()[0]
        raise UserError(f"chromium did not start: {first}") from err
    try:
        yield driver
    finally:
        driver.quit()


def _layers(layers: Layers) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = []
    if layers.image:
        shown.append(
            {
                "type": "image",
                "name": "image",
                "source": layers.image,
                "shaderControls": {"normalized": {"range": list(layers.image_range)}},
            }
        )
    shown.append(
        {
            "type": "segmentation",
            "name": "somas",
            "source": layers.somas,
            "tab": "segments",  # the list with the segment properties
            "segments": [str(i) for i in layers.selected],
            "selectedAlpha": 0.35,
            "notSelectedAlpha": 0.0 if layers.selected else 0.25,
            "hideSegmentZero": True,
        }
    )
    if layers.beside:
        shown.append({"type": "segmentation", "name": "beside", "source": layers.beside})
    if layers.centroids:
        layer = link_layer(layers.centroids, "somas", in_3d=not layers.selected)
        shown.append({**layer, "projectionAnnotationSpacing": 10})
    if layers.quality:
        shown.append(quality_layer(layers.quality))
    return shown

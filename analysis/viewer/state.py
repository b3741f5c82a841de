"""Neuroglancer states that show a result, and links to them. Positions are x, y, z in nm."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ...axes import Nm3
from ...errors import UserError
from ..layers.annotations import centroids_layer
from ..layers.quality import quality_layer

PUBLIC_VIEWER = "https://neuroglancer-demo.appspot.com"
_PANEL_PX = 420.0  # approximate height of a panel on the screen
_ORIENTATION = [-0.36, -0.22, -0.09, 0.9]  # quaternion of an oblique 3D view


@dataclass(frozen=True)
class Layers:
    """Layers of a view. Sources are neuroglancer URLs, such as precomputed://gs://bucket/run/somas.

    Attributes:
      somas: segmentation with meshes and segment properties.
      bounds_nm: lower and upper corner of the volume, x, y, z.
      image: EM volume, or None.
      centroids: annotation layer of the somas, or None.
      quality: annotation layer of the blocks, hidden initially, or None.
      beside: another segmentation of the same volume, or None.
      image_range: grey values that are shown as black and white.
      selected: segments whose meshes are shown and which alone are coloured in sections. If empty, all segments are
        coloured and the 3D panel shows the centroids; a double click adds a mesh.
    """

    somas: str
    bounds_nm: tuple[Nm3, Nm3]
    image: str | None = None
    centroids: str | None = None
    quality: str | None = None
    beside: str | None = None
    image_range: tuple[int, int] = (0, 255)
    selected: Sequence[int | str] = ()


def source_url(cloudpath: str, serve: Callable[[str], str] | None = None) -> str:
    """Return the neuroglancer URL of a layer, such as precomputed://gs://bucket/run/somas.

    Args:
      cloudpath: path of the layer in a bucket or on the local disk.
      serve: returns the URL of a local folder, which it makes readable for the viewer.

    Raises:
      UserError: the layer is on the local disk and `serve` is None.
    """
    path = cloudpath.removeprefix("precomputed://").rstrip("/")
    protocol, separator, rest = path.partition("://")
    if separator and protocol != "file":
        return f"precomputed://{path}"
    if serve is None:
        raise UserError(
            f"{cloudpath} is on the local disk, which a browser on another machine cannot read; "
            "copy it to a bucket, or open it on this machine with 'flysoma view RUN'"
        )
    return f"precomputed://{serve(rest if separator else path)}"


def viewer_state(layers: Layers, *, position_nm: Nm3 | None = None) -> dict[str, Any]:
    """Return a neuroglancer state as JSON: four panels that show the whole volume, with units of 1 nm.

    Args:
      layers: layers to show.
      position_nm: centre of the view; None: the centre of the volume.
    """
    low, high = layers.bounds_nm
    extent = [max(b - a, 1.0) for a, b in zip(low, high)]
    centre = position_nm or tuple((a + b) / 2 for a, b in zip(low, high))
    state: dict[str, Any] = {
        "dimensions": {a: [1e-9, "m"] for a in "xyz"},
        "position": [float(v) for v in centre],
        "crossSectionScale": max(extent[:2]) / _PANEL_PX,
        "projectionScale": 1.1 * math.hypot(*extent),
        "projectionOrientation": _ORIENTATION,
        "layers": _layers(layers),
        "layout": "4panel",
        "showSlices": False,
        "crossSectionBackgroundColor": "#000000",
        "selectedLayer": {"visible": True, "layer": "somas"},
    }
    return state


def link(state: dict[str, Any], base_url: str = PUBLIC_VIEWER) -> str:
    """Return a URL that opens the state in the neuroglancer served at `base_url`."""
    text = json.dumps(state, separators=(",", ":"))
    return f"{base_url.rstrip('/')}/#!{quote(text, safe='~@$()*!+=:;,./')}"


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
            "tab": "segments",  # list of segments with their properties
            "segments": [str(i) for i in layers.selected],
            "selectedAlpha": 0.35,
            "notSelectedAlpha": 0.0 if layers.selected else 0.25,
            "hideSegmentZero": True,
        }
    )
    if layers.beside:
        shown.append({"type": "segmentation", "name": "beside", "source": layers.beside})
    if layers.centroids:
        layer = centroids_layer(layers.centroids, "somas", in_3d=not layers.selected)
        shown.append({**layer, "projectionAnnotationSpacing": 10})
    if layers.quality:
        shown.append(quality_layer(layers.quality))
    return shown

"""Neuroglancer states that show a result, and links to them. Positions are x, y, z in nm."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import numpy as np

from ...axes import Nm3
from ...errors import UserError
from ..layers.annotations import centroids_layer
from ..layers.quality import quality_layer

PUBLIC_VIEWER = "https://neuroglancer-demo.appspot.com"
_PANEL_PX = 420.0  # approximate height of a panel on the screen
_COLOUR, _COLOUR_BESIDE = "#3d9be9", "#f28e2b"  # of two runs
_LOW_COLOUR, _HIGH_COLOUR = np.array([0.13, 0.27, 0.62]), np.array([0.99, 0.80, 0.22])
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
      nuclei: segmentation of the nuclei with the ids of the somas, hidden initially, or None.
      beside: another segmentation of the same volume, or None. Then each of both has one colour.
      image_range: grey values that are shown as black and white.
      selected: segments whose meshes are shown and which alone are coloured in sections. If empty, all segments are
        coloured and the 3D panel shows the centroids; a double click adds a mesh.
      voxel_nm: voxel size of the image's mip 0, x, y, z: the unit of coordinates in the viewer.
      colours: colour of segments by id, such as #ff0000; other segments have random colours.
    """

    somas: str
    bounds_nm: tuple[Nm3, Nm3]
    image: str | None = None
    centroids: str | None = None
    quality: str | None = None
    nuclei: str | None = None
    beside: str | None = None
    image_range: tuple[int, int] = (0, 255)
    selected: Sequence[int | str] = ()
    voxel_nm: Nm3 = (1.0, 1.0, 1.0)
    colours: Mapping[str, str] = field(default_factory=dict)


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
    """Return a neuroglancer state as JSON: four panels that show the whole volume, in voxels of the image.

    Args:
      layers: layers to show.
      position_nm: centre of the view; None: the centre of the volume.
    """
    low, high = layers.bounds_nm
    extent_nm = [max(b - a, 1.0) for a, b in zip(low, high)]
    unit_nm = min(layers.voxel_nm)  # of the scales, in neuroglancer
    x, y, z = ((a + b) / 2 for a, b in zip(low, high))
    state: dict[str, Any] = {
        "dimensions": {a: [v * 1e-9, "m"] for a, v in zip("xyz", layers.voxel_nm)},
        "crossSectionScale": max(extent_nm[:2]) / _PANEL_PX / unit_nm,
        "projectionScale": 1.1 * math.hypot(*extent_nm) / unit_nm,
        "projectionOrientation": _ORIENTATION,
        "layers": _layers(layers),
        "layout": "4panel",
        "showSlices": False,
        "crossSectionBackgroundColor": "#000000",
        "selectedLayer": {"visible": True, "layer": "somas"},
    }
    return centre_view(state, position_nm or (x, y, z))


def centre_view(state: dict[str, Any], position_nm: Nm3) -> dict[str, Any]:
    """Return a state with another centre."""
    voxels_m = [state["dimensions"][a][0] for a in "xyz"]
    position = [round(p * 1e-9 / v, 3) for p, v in zip(position_nm, voxels_m)]
    return {**state, "position": position}


def colour_by(properties: dict[str, Any], name: str) -> tuple[dict[str, str], float, float]:
    """Return a colour for each segment by a numeric property, from dark blue (low) to yellow (high).

    Args:
      properties: the segment properties of a layer, as its info file has them.
      name: id of a number property.
    Returns:
      Colours by segment id, and the values of dark blue and yellow: the 5th and 95th percentile.
    Raises:
      UserError: there is no such property.
    """
    inline = properties["inline"]
    numbers = {p["id"]: p["values"] for p in inline["properties"] if p["type"] == "number"}
    if name not in numbers:
        raise UserError(f"--color-by {name}: no such property; there are: {', '.join(numbers)}")
    values = np.array(numbers[name], float)
    low, high = np.percentile(values, [5, 95]).tolist()
    share = np.clip((values - low) / max(high - low, 1e-9), 0, 1)[:, None]
    rgb = np.rint(255 * ((1 - share) * _LOW_COLOUR + share * _HIGH_COLOUR)).astype(int).tolist()
    colours = {
        i: f"#{red:02x}{green:02x}{blue:02x}" for i, (red, green, blue) in zip(inline["ids"], rgb)
    }
    return colours, low, high


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
            **({"segmentColors": dict(layers.colours)} if layers.colours else {}),
            **({"segmentDefaultColor": _COLOUR} if layers.beside else {}),
        }
    )
    if layers.nuclei:
        nuclei = {"type": "segmentation", "name": "nuclei", "source": layers.nuclei}
        shown.append({**nuclei, "visible": False, "hideSegmentZero": True})
    if layers.beside:
        other = {"type": "segmentation", "name": "beside", "source": layers.beside}
        shown.append({**other, "selectedAlpha": 0.35, "segmentDefaultColor": _COLOUR_BESIDE})
    if layers.centroids:
        layer = centroids_layer(layers.centroids, "somas", in_3d=not layers.selected)
        shown.append({**layer, "projectionAnnotationSpacing": 10})
    if layers.quality:
        shown.append(quality_layer(layers.quality))
    return shown

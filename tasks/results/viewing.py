"""The neuroglancer view of a run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from ...analysis.viewer import state as viewer
from ...axes import Nm3
from ...errors import UserError
from ..faults import Fault
from ..run import Run

_NO_PROPERTIES: dict[str, Any] = {"inline": {"ids": [], "properties": []}}
_MAX_MESHES = 300  # with more somas than this, the 3D panel shows a mesh only on request


def view_state(
    run: Run,
    serve: Callable[[str], str] | None = None,
    position_nm: Nm3 | None = None,
    beside: Run | None = None,
    like: Run | None = None,
    color_by: str | None = None,
) -> dict[str, Any]:
    """Return the neuroglancer state that shows a run.

    Args:
      serve: returns the URL of a local folder, as in `viewer.source_url`; it is called for the layers shown only.
      position_nm: centre of the view, x, y, z; default: the centre of the volume.
      beside: another run on the same volume to show too.
      color_by: number in the segment properties by which the somas are coloured.
      like: the run to read from while the objects of `run` are not yet copied to their place.
    Raises:
      UserError: the run is between two versions of its somas.
    """
    source = like or run
    source.check_version()
    (x, y, z), bounds = source.somas.resolution_nm, source.somas.bounds
    low, high = ((c[0] * x, c[1] * y, c[2] * z) for c in (bounds.lo, bounds.hi))
    properties = source.store.get_json("somas/segment_properties/info") or _NO_PROPERTIES
    ids = properties["inline"]["ids"]
    has_quality, has_nuclei = (
        source.store.get(f"{name}/info") is not None for name in ("quality", "nuclei")
    )
    layers = viewer.Layers(
        somas=viewer.source_url(run.somas_path, serve),
        bounds_nm=(low, high),
        image=viewer.source_url(run.config.image, serve),
        centroids=viewer.source_url(f"{run.path}/centroids", serve),
        quality=viewer.source_url(f"{run.path}/quality", serve) if has_quality else None,
        nuclei=viewer.source_url(run.nuclei_path, serve) if has_nuclei else None,
        beside=None if beside is None else viewer.source_url(beside.somas_path, serve),
        selected=ids if len(ids) <= _MAX_MESHES else (),
        voxel_nm=_image_voxel_nm(source),
        colours=viewer.colour_by(properties, color_by)[0] if color_by else {},
    )
    return viewer.viewer_state(layers, position_nm=position_nm)


def _image_voxel_nm(run: Run) -> Nm3:
    """Return the voxel size of the image's mip 0, or of the somas if the image cannot be read from here."""
    try:
        return run.image.resolutions_nm[0]
    except Exception as err:
        if Fault.of(err).kind == "error":
            raise
        return run.somas.resolution_nm


def copy_link(run: Run, target: str, base_url: str) -> str | None:
    """Return a link to the copy of a run at a cloudpath; None if the copy or the image is on a local disk.

    Args:
      base_url: URL of the neuroglancer to link to.
    """
    copy = Run(run.config.model_copy(update={"output": target}))
    with contextlib.suppress(UserError):
        return viewer.link(view_state(copy, like=run), base_url)
    return None

"""Read meshes: Wavefront obj."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import UserError


def is_mesh(source: str | Path) -> bool:
    """Return whether a file is a mesh, by its name."""
    return Path(source).name.lower().endswith(".obj")


def read_mesh(source: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the vertices (n, 3; x, y, z) and faces (m, 3) of a Wavefront obj file of triangles.

    Raises:
      UserError: no such file, or it cannot be read.
    """
    import zmesh

    path = Path(source).expanduser()
    if not path.is_file():
        raise UserError(f"no file at {source}")
    try:
        mesh = zmesh.Mesh.from_obj(path.read_text())
        mesh.vertices[mesh.faces]  # fails if a face names a vertex that does not exist
        return mesh.vertices.reshape(-1, 3), mesh.faces.reshape(-1, 3)
    except Exception as err:  # noqa: BLE001  zmesh raises various errors for a damaged file
        raise UserError(
            f"{path} cannot be read as obj: lines 'v x y z' and 'f i j k' are needed, of triangles"
        ) from err

"""Arrays from the files that labs keep them in; `ingest`, `predict` and `evaluate` read through here."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError

FORMATS = (".tif", ".tiff", ".nii", ".nii.gz", ".h5", ".hdf5", ".npy", ".npz")


def read_array(source: str | Path, axes: str = "zyx", dataset: str | None = None) -> np.ndarray:
    """The 3-dimensional array of a tif, nii, nii.gz, h5, npy or npz file, as z, y, x.

    Args:
      axes: order of the axes in the file, slowest first as numpy has them.
      dataset: its name inside an h5 or npz file; may be left out where there is only one.

    Raises:
      UserError: no such file, not one of these formats, damaged, not 3-dimensional, wrong axes or dataset.
    """
    if sorted(axes) != ["x", "y", "z"]:
        raise UserError(f"axes '{axes}' should name x, y and z once each, as in zyx or xyz")
    path = Path(source).expanduser()
    if not path.is_file():
        raise UserError(f"no file at {source}" + ("; it is a folder" if path.is_dir() else ""))
    ending = next((end for end in FORMATS if path.name.lower().endswith(end)), None)
    if ending is None:
        raise UserError(f"{source}: unknown format; there are: {', '.join(FORMATS)}")
    array = _load(path, ending, dataset)
    if array.ndim != 3:
        raise UserError(
            f"{source} has {array.ndim} dimensions, shape {array.shape}, and 3 are needed ({axes})"
        )
    if 0 in array.shape:
        raise UserError(f"{source} is empty, its shape is {array.shape}")
    return array.transpose([axes.index(axis) for axis in "zyx"])


def is_mesh(source: str | Path) -> bool:
    """Whether a file is a mesh by its name."""
    return Path(source).name.lower().endswith(".obj")


def read_mesh(source: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (n, 3; x, y, z) and faces (m, 3) of a Wavefront obj file of triangles.

    Raises UserError: no such file, or it cannot be read.
    """
    import zmesh

    path = Path(source).expanduser()
    if not path.is_file():
        raise UserError(f"no file at {source}")
    try:
        mesh = zmesh.Mesh.from_obj(path.read_text())
        mesh.vertices[mesh.faces]  # that there are such
        return mesh.vertices.reshape(-1, 3), mesh.faces.reshape(-1, 3)
    except Exception as err:  # noqa: BLE001  the library raises all kinds for a damaged file
        raise UserError(
            f"{path} cannot be read as obj: lines 'v x y z' and 'f i j k' are needed, of triangles"
        ) from err


def write_array(path: Path, array: np.ndarray, axes: str = "zyx") -> None:
    """Write a z, y, x array as tif, nii, nii.gz, h5 (dataset "labels"), npy or npz, in the order of `axes`.

    Raises:
      UserError: unknown format, or the place cannot be written.
    """
    ending = next((end for end in FORMATS if path.name.lower().endswith(end)), None)
    if ending is None:
        raise UserError(f"{path}: unknown format; there are: {', '.join(FORMATS)}")
    turned = np.ascontiguousarray(array.transpose(["zyx".index(axis) for axis in axes]))
    try:
        _save(path, ending, turned)
    except OSError as err:
        raise UserError(f"cannot write {path}: {err.strerror or err}") from err


def _save(path: Path, ending: str, array: np.ndarray) -> None:
    if ending in (".tif", ".tiff"):
        import tifffile

        tifffile.imwrite(path, array, compression="zlib")
    elif ending in (".nii", ".nii.gz"):
        import nibabel

        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
    elif ending in (".h5", ".hdf5"):
        import h5py

        with h5py.File(path, "w") as file:
            file.create_dataset("labels", data=array, compression="gzip")
    elif ending == ".npz":
        np.savez_compressed(path, labels=array)
    else:
        np.save(path, array)


def _load(path: Path, ending: str, dataset: str | None) -> np.ndarray:
    reader = {
        ".tif": _load_tif,
        ".tiff": _load_tif,
        ".nii": _load_nifti,
        ".nii.gz": _load_nifti,
        ".npy": lambda p: np.load(p, allow_pickle=False),
    }.get(ending)
    try:
        if reader is not None:
            return reader(path)
        return _load_h5(path, dataset) if ending in (".h5", ".hdf5") else _load_npz(path, dataset)
    except (UserError, MemoryError):
        raise
    except Exception as err:  # noqa: BLE001  each library raises its own kinds for a damaged file
        reason = str(err).splitlines()[0] if str(err) else type(err).__name__
        raise UserError(
            f"{path} cannot be read as {ending[1:]} ({reason}); it is damaged or not whole"
        ) from err


def _load_tif(path: Path) -> np.ndarray:
    """All pages of a tif; tifffile only logs that a page lies beyond a truncated file's end, here it is an error."""
    import tifffile

    complaints = _Complaints()
    log = logging.getLogger("tifffile")
    log.addHandler(complaints)
    spread, log.propagate = log.propagate, False
    try:
        array = tifffile.imread(path)
    finally:
        log.removeHandler(complaints)
        log.propagate = spread
    if complaints.lines or array.size == 0:
        raise ValueError(next(iter(complaints.lines), "no pages"))
    return array


class _Complaints(logging.Handler):
    """Keeps what a library logs as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _load_nifti(path: Path) -> np.ndarray:
    import nibabel

    return np.asanyarray(nibabel.load(path).dataobj)


def _load_h5(path: Path, dataset: str | None) -> np.ndarray:
    import h5py

    found: dict[str, Any] = {}

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item

    with h5py.File(path, "r") as file:
        file.visititems(note)
        volumes = {name for name, item in found.items() if item.ndim == 3}
        return found[_choose(path, dataset, set(found), volumes)][()]


def _load_npz(path: Path, dataset: str | None) -> np.ndarray:
    with np.load(path, allow_pickle=False) as file:
        names = set(file.files)
        volumes = {name for name in names if file[name].ndim == 3} if len(names) > 1 else names
        return file[_choose(path, dataset, names, volumes)]


def _choose(path: Path, dataset: str | None, names: set[str], volumes: set[str]) -> str:
    """The one dataset that is meant."""
    there = ", ".join(sorted(names)) or "none"
    if dataset is not None:
        if dataset.strip("/") not in names:
            raise UserError(f"{path} has no dataset '{dataset}'; there is: {there}")
        return dataset.strip("/")
    if len(volumes) != 1:
        count = "no dataset of 3 dimensions" if not volumes else "several datasets"
        raise UserError(f"{path} has {count} (there is: {there}); name one with --dataset")
    return next(iter(volumes))

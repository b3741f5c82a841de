"""Read and write arrays and meshes as files: tif, nii, h5, npy, npz and obj."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError

FORMATS = (".tif", ".tiff", ".nii", ".nii.gz", ".h5", ".hdf5", ".npy", ".npz")


def read_array(source: str | Path, axes: str = "zyx", dataset: str | None = None) -> np.ndarray:
    """Read the 3-dimensional array of a tif, nii, nii.gz, h5, npy or npz file.

    Args:
      axes: order of the axes in the file, slowest first as in numpy.
      dataset: name of the array in an h5 or npz file; not needed if the file holds one.

    Returns:
      The array, z, y, x.

    Raises:
      UserError: no such file, an unknown format, a damaged file, not 3-dimensional, wrong axes or dataset.
    """
    if sorted(axes) != ["x", "y", "z"]:
        raise UserError(f"axes '{axes}' should name x, y and z once each, as in zyx or xyz")
    path = Path(source).expanduser()
    if not path.is_file():
        raise UserError(f"no file at {source}" + ("; it is a folder" if path.is_dir() else ""))
    array = _load(path, _suffix(path), dataset)
    if array.ndim != 3:
        raise UserError(
            f"{source} has {array.ndim} dimensions, shape {array.shape}, and 3 are needed ({axes})"
        )
    if 0 in array.shape:
        raise UserError(f"{source} is empty, its shape is {array.shape}")
    return array.transpose([axes.index(axis) for axis in "zyx"])


def _suffix(path: Path) -> str:
    """Return the suffix of a file's format. Raises UserError if the format is unknown."""
    suffix = next((suffix for suffix in FORMATS if path.name.lower().endswith(suffix)), None)
    if suffix is None:
        raise UserError(f"{path}: unknown format; there are: {', '.join(FORMATS)}")
    return suffix


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


def write_array(path: Path, array: np.ndarray, axes: str = "zyx") -> None:
    """Write a z, y, x array as tif, nii, nii.gz, h5 (dataset "labels"), npy or npz, in the order of `axes`.

    Raises:
      UserError: unknown format, or the place cannot be written.
    """
    suffix = _suffix(path)
    reordered = np.ascontiguousarray(array.transpose(["zyx".index(axis) for axis in axes]))
    try:
        _save(path, suffix, reordered)
    except OSError as err:
        raise UserError(f"cannot write {path}: {err.strerror or err}") from err


def _save(path: Path, suffix: str, array: np.ndarray) -> None:
    if suffix in (".tif", ".tiff"):
        import tifffile

        tifffile.imwrite(path, array, compression="zlib")
    elif suffix in (".nii", ".nii.gz"):
        import nibabel

        image = nibabel.Nifti1Image(array, np.eye(4))  # type: ignore[no-untyped-call]
        nibabel.save(image, path)
    elif suffix in (".h5", ".hdf5"):
        import h5py

        with h5py.File(path, "w") as file:
            file.create_dataset("labels", data=array, compression="gzip")
    elif suffix == ".npz":
        np.savez_compressed(path, labels=array)
    else:
        np.save(path, array)


def _load(path: Path, suffix: str, dataset: str | None) -> np.ndarray:
    reader = {
        ".tif": _load_tif,
        ".tiff": _load_tif,
        ".nii": _load_nifti,
        ".nii.gz": _load_nifti,
        ".npy": _load_npy,
    }.get(suffix)
    try:
        if reader is not None:
            return reader(path)
        return _load_h5(path, dataset) if suffix in (".h5", ".hdf5") else _load_npz(path, dataset)
    except (UserError, MemoryError):
        raise
    except Exception as err:  # noqa: BLE001  each library raises its own errors for a damaged file
        reason = str(err).splitlines()[0] if str(err) else type(err).__name__
        raise UserError(
            f"{path} cannot be read as {suffix[1:]} ({reason}); it is damaged or not whole"
        ) from err


def _load_tif(path: Path) -> np.ndarray:
    """Read all pages of a tif. tifffile only logs that a file is truncated; here it is an error."""
    import tifffile

    errors = _ErrorLog()
    log = logging.getLogger("tifffile")
    log.addHandler(errors)
    propagate, log.propagate = log.propagate, False
    try:
        array = tifffile.imread(path)
    finally:
        log.removeHandler(errors)
        log.propagate = propagate
    if errors.lines or array.size == 0:
        raise ValueError(next(iter(errors.lines), "no pages"))
    return array


class _ErrorLog(logging.Handler):
    """Collects the errors that a library logs."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _load_nifti(path: Path) -> np.ndarray:
    import nibabel

    image: Any = nibabel.load(path)
    return np.asanyarray(image.dataobj)


def _load_npy(path: Path) -> np.ndarray:
    return np.load(path, allow_pickle=False)


def _load_h5(path: Path, dataset: str | None) -> np.ndarray:
    import h5py

    datasets: dict[str, Any] = {}

    def collect(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            datasets[name] = item

    with h5py.File(path, "r") as file:
        file.visititems(collect)
        volumes = {name for name, item in datasets.items() if item.ndim == 3}
        return datasets[_choose(path, dataset, set(datasets), volumes)][()]


def _load_npz(path: Path, dataset: str | None) -> np.ndarray:
    with np.load(path, allow_pickle=False) as file:
        names = set(file.files)
        volumes = {name for name in names if file[name].ndim == 3} if len(names) > 1 else names
        return file[_choose(path, dataset, names, volumes)]


def _choose(path: Path, dataset: str | None, names: set[str], volumes: set[str]) -> str:
    """Return the name of the requested dataset, or of the only 3-dimensional one."""
    available = ", ".join(sorted(names)) or "none"
    if dataset is not None:
        if dataset.strip("/") not in names:
            raise UserError(f"{path} has no dataset '{dataset}'; there is: {available}")
        return dataset.strip("/")
    if len(volumes) != 1:
        count = "no dataset of 3 dimensions" if not volumes else "several datasets"
        raise UserError(f"{path} has {count} (there is: {available}); name one with --dataset")
    return next(iter(volumes))

"""Segment somas: split the interior among the seeds, fill holes, and restore the boundary.

Arrays are z, y, x. Probabilities are uint8; 255 stands for 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cc3d
import fastremap
import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

from ...axes import Voxel, Zyx
from .encoding import threshold_level
from .label_ops import distinct_pairs, fill_holes, grow_labels, keep_largest_parts

Corners = tuple[Zyx, Zyx]  # first and past-last voxel
Slices = tuple[slice, ...]
_MARKER_NM = 600.0  # radius of the ball around a seed that marks its soma
_REACH_NM = 2000.0  # a seed in no interior marks the nearest interior up to this distance
_FLOOD_LEVELS = (
    -192,
    -224,
    -240,
)  # heights (boundary - interior) below which pieces are flooded at once
_SMOOTH_VX = 1.0  # standard deviation; closes gaps of one voxel in a membrane
_SHELL_VX = 3  # thickness of the boundary class that is restored
# least p(interior) + p(boundary) in a soma: boundary voxels count double in training, so 0.5 lies outside the surface
_SOMA = 0.85
_OFF_BOUNDARY = 64  # p(boundary) below which a voxel counts for the confidence
_CONTEXT_NM = 1000.0  # context around the requested part in which holes are filled
_OPEN_FACE = 1.5  # face area / volume^(2/3) of the smaller body; 1.9 for a halved ball
_OPEN_INTERIOR = 0.9  # mean interior probability on the face


def make_instances(
    interior: np.ndarray,
    boundary: np.ndarray,
    seeds: np.ndarray,
    voxel_nm: Voxel,
    threshold: float,
    min_um3: float,
    part: Corners | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Segment somas from probabilities and seeds.

    The interior is cut into 6-connected pieces. A piece with one seed belongs to that seed. A piece with several
    seeds is split by a watershed from the seeds, whose basins meet where the interior is least likely and the boundary
    is most likely. A piece without a seed gets a label of its own, so that stitching can join it to a seed of a
    neighbouring block.

    Args:
      interior, boundary: uint8 probabilities, z, y, x.
      seeds: n, 3; voxels, z, y, x.
      voxel_nm: size of a voxel, z, y, x.
      threshold: interior is where p(interior) > threshold and p(boundary) < 1 - threshold.
      min_um3: least volume of a piece without a seed; smaller pieces are dropped.
      part: the part to label, first and past-last voxel, z, y, x; by default everything.
    Returns:
      labels of the part (uint32, 1..m); the index of each label's seed (m; 0..n-1, or -1 without a seed); and pairs of
      seed indices (k, 2) that lie in one body, with neither a membrane nor a neck between them.
    """
    level = threshold_level(threshold)
    inside = (interior > level) & (boundary < max(255 - level, 1))
    pieces = cc3d.connected_components(inside, connectivity=6, out_dtype=np.uint32)
    lo, hi = part or ((0, 0, 0), pieces.shape)
    region = _box(
        (max(0, a - round(_CONTEXT_NM / v)), min(b + round(_CONTEXT_NM / v), n))
        for a, b, v, n in zip(lo, hi, voxel_nm, pieces.shape)
    )
    markers = _find_markers(pieces, seeds, voxel_nm)
    min_voxels = max(1, round(min_um3 / (float(np.prod(voxel_nm)) * 1e-9)))
    labels = _label_pieces(pieces, markers, min_voxels, region)
    one_body = _split_pieces(labels, pieces, markers, (interior, boundary), voxel_nm, region)
    level = round(_SOMA * 255)
    soma = interior[region] >= level - np.minimum(boundary[region], level)
    labels = fill_holes(grow_labels(labels, soma, _SHELL_VX))
    labels, numbers = fastremap.renumber(
        labels[_relative(_box(zip(lo, hi)), region)], preserve_zero=True
    )
    owner = np.full(len(numbers) - (0 in numbers), -1, np.int64)
    for old, new in numbers.items():
        if 0 < old <= len(seeds):
            owner[int(new) - 1] = old - 1
    return labels.astype(np.uint32), owner, one_body


def certainty_sums(
    labels: np.ndarray, interior: np.ndarray, boundary: np.ndarray, count: int
) -> np.ndarray:
    """Return what tells how certain each label is, in sums that add up over blocks.

    The mean probability of the interior off the boundary tells somas from other pale bodies better than one over all
    voxels does: in the latter the surface, which the network sees around both, has most of the weight.

    Args:
      labels: 1..count.
      interior, boundary: uint8 probabilities of the same voxels.
      count: number of labels.
    Returns:
      int64, count, 2: the sum of p(interior) over the voxels off the boundary (255 stands for 1 a voxel), and their
      number.
    """
    off = boundary < _OFF_BOUNDARY
    owner = labels[off]
    total = np.bincount(owner, interior[off], count + 1)  # exact, because below 2^53
    return np.stack([total, np.bincount(owner, minlength=count + 1)], axis=1)[1:].astype(np.int64)


@dataclass(frozen=True)
class _Markers:
    """Interior voxels around the seeds.

    Attributes:
      place: index of each voxel in the flattened array.
      piece: its piece.
      seed: its seed, 1..n.
      seeds: n, the number of seeds.
    """

    place: np.ndarray
    piece: np.ndarray
    seed: np.ndarray
    seeds: int


def _find_markers(pieces: np.ndarray, seeds: np.ndarray, voxel_nm: Voxel) -> _Markers:
    """Mark the interior around each seed. A voxel near several seeds marks the nearest one."""
    places, owners, distances = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0)]
    for number, seed in enumerate(seeds, start=1):
        for reach in (_MARKER_NM, _REACH_NM):
            around, distance = _ball(seed, pieces.shape, voxel_nm, reach)
            nearest = distance[pieces[around] > 0].min(initial=np.inf)
            if nearest <= reach:
                break
        else:
            continue
        ball = distance <= max(_MARKER_NM, float(nearest))
        voxels_of = np.bincount(pieces[around][ball])
        voxels_of[0] = 0
        marked = np.nonzero(ball & (pieces[around] == voxels_of.argmax()))
        position = tuple(axis + box.start for axis, box in zip(marked, around))
        places.append(np.ravel_multi_index(position, pieces.shape))
        owners.append(np.full(len(marked[0]), number))
        distances.append(distance[marked])
    place, owner = np.concatenate(places), np.concatenate(owners)
    order = np.lexsort((owner, np.concatenate(distances), place))
    place, first_of = np.unique(place[order], return_index=True)
    return _Markers(place, pieces.ravel()[place], owner[order][first_of], len(seeds))


def _ball(
    seed: np.ndarray, shape: tuple[int, ...], voxel_nm: Voxel, radius_nm: float
) -> tuple[Slices, np.ndarray]:
    """Return the box around a ball, and the distance of each of its voxels from the centre, nm."""
    lo = [max(0, int(p - radius_nm / v)) for p, v in zip(seed, voxel_nm)]
    hi = [min(n, int(p + radius_nm / v) + 2) for p, v, n in zip(seed, voxel_nm, shape)]
    box = _box((a, max(a, b)) for a, b in zip(lo, hi))
    offsets = [(axis - p) * v for axis, p, v in zip(np.ogrid[box], seed, voxel_nm)]
    distance = np.sqrt(offsets[0] ** 2 + offsets[1] ** 2 + offsets[2] ** 2).astype(np.float32)
    return box, distance


def _label_pieces(
    pieces: np.ndarray, markers: _Markers, min_voxels: int, region: Slices
) -> np.ndarray:
    """Label the pieces in a region: 1..n by seed, and n + 1.. for large enough pieces without a seed."""
    numbers, counts = fastremap.unique(pieces, return_counts=True)
    kept = numbers[(counts >= min_voxels) & (numbers > 0)]
    last = markers.seeds + len(kept)
    of_piece = np.zeros(int(numbers[-1]) + 1, np.min_scalar_type(last))
    of_piece[kept] = np.arange(markers.seeds + 1, last + 1)
    of_piece[markers.piece] = markers.seed
    return of_piece.take(pieces[region])


def _split_pieces(
    labels: np.ndarray,
    pieces: np.ndarray,
    markers: _Markers,
    fields: tuple[np.ndarray, np.ndarray],
    voxel_nm: Voxel,
    region: Slices,
) -> np.ndarray:
    """Split each piece that has several seeds, in place.

    Args:
      labels: labels of the region; changed.
      pieces: the pieces of the whole array.
      fields: interior and boundary of the whole array.
      region: pieces outside it are skipped.
    Returns:
      pairs of seed indices (k, 2) that lie in one body.
    """
    one_body = [np.zeros((0, 2), np.int64)]
    piece, _ = distinct_pairs(markers.piece, markers.seed)[0]
    numbers, seeds_of = np.unique(piece, return_counts=True)
    for number in numbers[seeds_of > 1]:
        if not (pieces[region] == number).any():
            continue
        mask = pieces == number
        box = _bounding_box(mask)
        mask = mask[box]
        marked = _draw_markers(markers, number, box, pieces.shape)
        basins = _flood(_height(*fields, box), marked, mask)
        one_body.append(_find_open_faces(basins, fields[0][box], voxel_nm))
        both = _box((max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(box, region))
        mask = mask[_relative(both, box)]
        kept = keep_largest_parts(basins)[_relative(both, box)]
        labels[_relative(both, region)][mask] = kept[mask]
    return np.concatenate(one_body)


def _draw_markers(markers: _Markers, piece: int, box: Slices, shape: tuple[int, ...]) -> np.ndarray:
    """Return the markers of a piece as an array over its box; 0 elsewhere."""
    marked = np.zeros(tuple(s.stop - s.start for s in box), np.uint32)
    own = markers.piece == piece
    places = np.unravel_index(markers.place[own], shape)
    marked[tuple(axis - s.start for axis, s in zip(places, box))] = markers.seed[own]
    return marked


def _flood(height: np.ndarray, markers: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Compute the watershed from markers within a mask.

    A component below a height that has markers of one seed only belongs to that seed, because no other basin reaches
    it before the water rises to that height. Such components are assigned at once, and the slow watershed computes
    only the rest. Where a wall of one voxel separates two such components, its voxels, and a hollow that only the wall
    encloses, can differ from the watershed.
    """
    basins = markers.copy()
    for level in _FLOOD_LEVELS:
        component = cc3d.connected_components(
            (height <= level) & mask, connectivity=6, out_dtype=np.uint32
        )
        marked = markers > 0
        components, seed = distinct_pairs(component[marked], markers[marked])[0]
        seed_of = np.zeros(int(component.max()) + 1, np.uint32)
        count = np.bincount(components)
        seed_of[components] = seed
        seed_of[: len(count)][count != 1] = seed_of[0] = 0
        np.maximum(basins, seed_of.take(component), out=basins)
    rest = mask & (basins == 0)
    with_edge = ndimage.binary_dilation(rest, mask=mask)
    flooded = watershed(height, basins, mask=with_edge)  # type: ignore[no-untyped-call]
    flooded = flooded.astype(np.uint32)
    np.copyto(flooded, basins, where=basins > 0)
    return flooded


def _height(interior: np.ndarray, boundary: np.ndarray, box: Slices) -> np.ndarray:
    """Return the height map of the watershed in a box: boundary minus interior, smoothed."""
    reach = round(4 * _SMOOTH_VX)  # radius of the filter
    padded = _box((max(0, s.start - reach), s.stop + reach) for s in box)
    smooth = ndimage.gaussian_filter(
        boundary[padded].astype(np.float32) - interior[padded], _SMOOTH_VX
    )
    return smooth[_relative(box, padded)]


def _find_open_faces(labels: np.ndarray, interior: np.ndarray, voxel_nm: Voxel) -> np.ndarray:
    """Return the pairs of seed indices (k, 2) whose basins meet in an open face: large, and likely interior.

    Only basins of seeds can meet, because pieces are disconnected.
    """
    voxel_um = np.array(voxel_nm) * 1e-3
    contacts = []
    for axis in range(3):
        low, high = (
            tuple(s if a == axis else slice(None) for a in range(3))
            for s in (slice(-1), slice(1, None))
        )
        one, two = labels[low], labels[high]
        touching = (one != two) & (one > 0) & (two > 0)
        pair = np.sort(np.stack([one[touching], two[touching]]), axis=0)
        probability = np.minimum(interior[low][touching], interior[high][touching]) / 255
        area = np.full(len(probability), np.prod(voxel_um) / voxel_um[axis])
        contacts.append((pair, area, probability))
    pair, area, probability = (np.concatenate(values, axis=-1) for values in zip(*contacts))
    pairs, index = distinct_pairs(*pair)
    face = np.bincount(index, area, pairs.shape[1])
    mean = np.bincount(index, area * probability, pairs.shape[1]) / face
    volume = np.bincount(labels.ravel()) * np.prod(voxel_um)
    smaller = volume[pairs].min(axis=0, initial=np.inf)
    is_open = (face > _OPEN_FACE * smaller ** (2 / 3)) & (mean > _OPEN_INTERIOR)
    return pairs[:, is_open].T.astype(np.int64) - 1


def _bounding_box(mask: np.ndarray) -> Slices:
    """Return the smallest box around a mask."""
    spans = (np.flatnonzero(mask.any(axis=other)) for other in ((1, 2), (0, 2), (0, 1)))
    return _box((int(span[0]), int(span[-1]) + 1) for span in spans)


def _box(ends: Iterable[tuple[int, int]]) -> Slices:
    """Return a box from its first and past-last voxel along each axis."""
    return tuple(slice(a, b) for a, b in ends)


def _relative(box: Slices, outer: Slices) -> Slices:
    """Return a box relative to a box around it."""
    return _box((s.start - a.start, s.stop - a.start) for s, a in zip(box, outer))

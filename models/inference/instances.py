"""Probabilities and seeds to somas: the interior flooded from the seeds, holes filled, boundary given back.

Arrays are z, y, x; 255 stands for a probability of 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

import cc3d
import fastremap
import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

from .pairs import distinct_pairs

Part = tuple[tuple[int, int, int], tuple[int, int, int]]
Slices = tuple[slice, ...]
_MARKER_NM = 600.0  # radius of the ball around a seed from which its soma grows
_REACH_NM = 2000.0  # a seed this far from any interior still marks the nearest interior
_LEVELS = (
    -192,
    -224,
    -240,
)  # heights (boundary - interior) below which seeds have most of what is theirs
_SMOOTH_VX = 1.0  # standard deviation; bridges gaps of a voxel in a membrane
_SHELL_VX = 3  # voxels of boundary that may be given back
_AROUND_NM = 1000.0  # around the labels that are wanted: what holes there are is seen so far
_OPEN_FACE = 1.5  # area of an open face over the smaller part's volume^(2/3); 1.9 in a halved ball
_OPEN_INTERIOR = 0.9  # mean p(interior) along it


def make_instances(
    interior: np.ndarray,
    boundary: np.ndarray,
    seeds: np.ndarray,
    voxel_nm: tuple[float, float, float],
    threshold: float,
    min_um3: float,
    part: Part | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label somas.

    A connected piece of interior with one seed is that seed's; one with several is shared among them by a
    watershed from the seeds, whose water meets where the interior is least and the boundary most likely; one
    with none gets a label of its own, for stitching to decide whether it belongs to a seed of the next block.

    Args:
      interior, boundary: uint8 probabilities, z, y, x.
      seeds: n, 3 positions in voxels, z, y, x.
      voxel_nm: z, y, x.
      threshold: interior where p(interior) > threshold and p(boundary) < 1 - threshold.
      min_um3: pieces without a seed that are smaller than this are dropped.
      part: first and past-last voxel, z, y, x, of the labels that are wanted; by default all.
    Returns:
      labels of the part (uint32, 1..m); for each label 1..m the number of its seed (0..n-1) or -1; and pairs of
      seeds (k, 2) that are in one body: neither membrane nor neck lies between what the watershed gave them.
    """
    level = round(threshold * 255)
    inside = (interior > level) & (boundary < max(255 - level, 1))
    pieces = cc3d.connected_components(inside, connectivity=6, out_dtype=np.uint32)
    lo, hi = part or ((0, 0, 0), pieces.shape)
    around = _box(
        (max(0, a - round(_AROUND_NM / v)), min(b + round(_AROUND_NM / v), n))
        for a, b, v, n in zip(lo, hi, voxel_nm, pieces.shape)
    )
    markers = _markers(pieces, seeds, voxel_nm)
    least = max(1, round(min_um3 / (float(np.prod(voxel_nm)) * 1e-9)))
    labels = _label_pieces(pieces, markers, least, around)
    one_body = _share(labels, pieces, markers, (interior, boundary), voxel_nm, around)
    labels = _give_back(labels, interior[around] >= 128 - np.minimum(boundary[around], 128))
    wanted = fill_holes(labels)[_within(_box(zip(lo, hi)), around)]
    labels, mapping = fastremap.renumber(wanted, preserve_zero=True)
    owner = np.full(len(mapping) - (0 in mapping), -1, np.int64)
    for old, new in mapping.items():
        if 0 < old <= len(seeds):
            owner[new - 1] = old - 1
    return labels.astype(np.uint32), owner, one_body


def fill_holes(labels: np.ndarray) -> np.ndarray:
    """Background that one label alone encloses becomes that label's. Open to the array's border: left."""
    empty = cc3d.connected_components(labels == 0, connectivity=6, out_dtype=np.uint32)
    closed = np.arange(int(empty.max()) + 1) > 0
    for axis in range(3):
        closed[empty.take((0, -1), axis)] = False
    voxels = np.flatnonzero(closed.take(empty))
    hole, flat = empty.ravel()[voxels], labels.ravel()
    steps = np.array(labels.strides) // labels.itemsize
    beside = np.concatenate([flat[voxels + step] for step in (*steps, *-steps)])
    holes, label = distinct_pairs(np.tile(hole, 6)[beside > 0], beside[beside > 0])[0]
    of_hole, count = np.zeros(len(closed), labels.dtype), np.bincount(holes, minlength=len(closed))
    of_hole[holes] = label
    filled = labels.copy()
    filled.ravel()[voxels] = np.where(count == 1, of_hole, 0)[hole]
    return filled


@dataclass(frozen=True)
class _Markers:
    """Interior around the seeds: the place of each voxel in the flat array, its piece, its seed's number + 1."""

    place: np.ndarray
    piece: np.ndarray
    seed: np.ndarray
    seeds: int


def _markers(
    pieces: np.ndarray, seeds: np.ndarray, voxel_nm: tuple[float, float, float]
) -> _Markers:
    """The interior around each seed; a voxel goes to its nearest seed."""
    places, owners, distances = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0)]
    for number, seed in enumerate(seeds, start=1):
        for reach in (_MARKER_NM, _REACH_NM):
            around, distance = _ball(seed, pieces.shape, voxel_nm, reach)
            least = distance[pieces[around] > 0].min(initial=np.inf)
            if least <= reach:
                break
        else:
            continue
        ball = distance <= max(_MARKER_NM, float(least))
        here = np.bincount(pieces[around][ball])  # of several the one that fills most of the ball
        here[0] = 0
        own = np.nonzero(ball & (pieces[around] == here.argmax()))
        first = [s.start for s in around]
        whole = tuple(axis + a for axis, a in zip(own, first))
        places.append(np.ravel_multi_index(whole, pieces.shape))
        owners.append(np.full(len(own[0]), number))
        distances.append(distance[own])
    place, owner = np.concatenate(places), np.concatenate(owners)
    order = np.lexsort((owner, np.concatenate(distances), place))
    place, first_of = np.unique(place[order], return_index=True)
    return _Markers(place, pieces.ravel()[place], owner[order][first_of], len(seeds))


def _ball(
    seed: np.ndarray, shape: tuple[int, ...], voxel_nm: tuple[float, float, float], radius: float
) -> tuple[tuple[slice, ...], np.ndarray]:
    """The box around a seed and each of its voxels' distance from it, nm."""
    lo = [max(0, int(p - radius / v)) for p, v in zip(seed, voxel_nm)]
    hi = [min(n, int(p + radius / v) + 2) for p, v, n in zip(seed, voxel_nm, shape)]
    z, y, x = np.ogrid[tuple(slice(a, max(a, b)) for a, b in zip(lo, hi))]
    steps = [(axis - p) * v for axis, p, v in zip((z, y, x), seed, voxel_nm)]
    distance = np.sqrt(steps[0] ** 2 + steps[1] ** 2 + steps[2] ** 2).astype(np.float32)
    return tuple(slice(a, max(a, b)) for a, b in zip(lo, hi)), distance


def _label_pieces(pieces: np.ndarray, markers: _Markers, least: int, around: Slices) -> np.ndarray:
    """Labels in a box: 1..seeds for pieces with a seed, larger ones for those without that have `least` voxels."""
    numbers, counts = fastremap.unique(pieces, return_counts=True)
    kept = numbers[(counts >= least) & (numbers > 0)]
    most = markers.seeds + len(kept)
    of_piece = np.zeros(int(numbers[-1]) + 1, np.min_scalar_type(most))
    of_piece[kept] = np.arange(markers.seeds + 1, most + 1)
    of_piece[markers.piece] = markers.seed
    return of_piece.take(pieces[around])


def _share(
    labels: np.ndarray,
    pieces: np.ndarray,
    markers: _Markers,
    fields: tuple[np.ndarray, np.ndarray],
    voxel_nm: tuple[float, float, float],
    around: Slices,
) -> np.ndarray:
    """Share pieces with several seeds among them, in the labels of a box; pairs of seeds that are in one body.

    Args:
      fields: interior and boundary.
      around: the box; pieces that do not reach into it are left alone.
    """
    one_body = [np.zeros((0, 2), np.int64)]
    piece, _ = distinct_pairs(markers.piece, markers.seed)[0]
    several, count = np.unique(piece, return_counts=True)
    for number in several[count > 1]:
        if not (pieces[around] == number).any():
            continue
        here = pieces == number
        box = _extent(here)
        here = here[box]
        marked = _marked(markers, number, box, pieces.shape)
        shares = _flood(_height(*fields, box), marked, here)
        one_body.append(_one_body(shares, fields[0][box], voxel_nm))
        both = _box((max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(box, around))
        own = here[_within(both, box)]
        labels[_within(both, around)][own] = _drop_crumbs(shares)[_within(both, box)][own]
    return np.concatenate(one_body)


def _marked(markers: _Markers, piece: int, box: Slices, shape: tuple[int, ...]) -> np.ndarray:
    """The markers of a piece as an array over its box; 0 elsewhere."""
    marked = np.zeros(tuple(s.stop - s.start for s in box), np.uint32)
    own = markers.piece == piece
    whole = np.unravel_index(markers.place[own], shape)
    marked[tuple(axis - s.start for axis, s in zip(whole, box))] = markers.seed[own]
    return marked


def _flood(height: np.ndarray, markers: np.ndarray, here: np.ndarray) -> np.ndarray:
    """The watershed from markers within `here`.

    Where a part of it lies below a height, and one seed's markers in it, no other water is there before that height is
    reached: it is given to that seed at once, and only its edge is left to the watershed, which is slow. (A wall of
    one voxel between two such parts may go to the other side.)
    """
    shares = markers.copy()
    for level in _LEVELS:
        part = cc3d.connected_components(
            (height <= level) & here, connectivity=6, out_dtype=np.uint32
        )
        marked = markers > 0
        parts, seed = distinct_pairs(part[marked], markers[marked])[0]
        of_part, count = np.zeros(int(part.max()) + 1, np.uint32), np.bincount(parts)
        of_part[parts] = seed
        of_part[: len(count)][count != 1] = of_part[0] = 0
        np.maximum(shares, of_part.take(part), out=shares)
    rest = here & (shares == 0)
    edge = ndimage.binary_dilation(rest, mask=here)
    found = watershed(height, shares, mask=edge).astype(np.uint32)
    np.copyto(found, shares, where=shares > 0)
    return found


def _height(interior: np.ndarray, boundary: np.ndarray, box: Slices) -> np.ndarray:
    """What the water rises over: high where a boundary is likely and the interior is not, smoothed."""
    reach = round(4 * _SMOOTH_VX)  # of the filter
    around = _box((max(0, s.start - reach), s.stop + reach) for s in box)
    smooth = ndimage.gaussian_filter(
        boundary[around].astype(np.float32) - interior[around], _SMOOTH_VX
    )
    return smooth[_within(box, around)]


def _one_body(
    labels: np.ndarray, interior: np.ndarray, voxel_nm: tuple[float, float, float]
) -> np.ndarray:
    """Pairs of seeds whose parts meet in an open face. Parts of seeds alone can meet: pieces are apart."""
    voxel_um = np.array(voxel_nm) * 1e-3
    found = []
    for axis in range(3):
        low, high = (
            tuple(s if a == axis else slice(None) for a in range(3))
            for s in (slice(-1), slice(1, None))
        )
        one, two = labels[low], labels[high]
        meet = (one != two) & (one > 0) & (two > 0)
        pair = np.sort(np.stack([one[meet], two[meet]]), axis=0)
        certain = np.minimum(interior[low][meet], interior[high][meet]) / 255
        found.append((pair, np.full(len(certain), np.prod(voxel_um) / voxel_um[axis]), certain))
    pair, area, certain = (np.concatenate(part, axis=-1) for part in zip(*found))
    pairs, which = distinct_pairs(*pair)
    face = np.bincount(which, area, pairs.shape[1])
    certain = np.bincount(which, area * certain, pairs.shape[1]) / face
    volume = np.bincount(labels.ravel()) * np.prod(voxel_um)
    smaller = volume[pairs].min(axis=0, initial=np.inf)
    is_open = (face > _OPEN_FACE * smaller ** (2 / 3)) & (certain > _OPEN_INTERIOR)
    return pairs[:, is_open].T.astype(np.int64) - 1


def _drop_crumbs(labels: np.ndarray) -> np.ndarray:
    """Of each label its largest connected part stays."""
    parts = cc3d.connected_components(labels, connectivity=6, out_dtype=np.uint32)
    counts = np.bincount(parts.ravel())
    of_part = np.zeros(len(counts), labels.dtype)
    of_part[parts.ravel()] = labels.ravel()  # every voxel of a part carries the same label
    order = np.lexsort((np.arange(len(counts)), -counts, of_part))
    first = np.ones(len(order), bool)
    first[1:] = of_part[order][1:] != of_part[order][:-1]
    of_part[order[~first]] = 0
    return of_part.take(parts)


def _give_back(labels: np.ndarray, soma: np.ndarray) -> np.ndarray:
    """Grow labels into the boundary class that surrounds them, a few voxels at most.

    A voxel gets the label that its 26 neighbours have; of several the largest or the smallest, whichever more have.
    """
    padded = np.pad(labels, 1)
    steps = np.array(padded.strides) // padded.itemsize
    around = np.array(list(product((-1, 0, 1), repeat=3))) @ steps
    flat, free = padded.ravel(), (np.pad(soma, 1) & (padded == 0)).ravel()
    for _ in range(_SHELL_VX):
        found = _largest_around(flat, steps)
        smallest = -_largest_around(-flat, steps)  # unsigned: 0 stays 0, and is the least of them
        several = np.flatnonzero(free & (found != smallest))
        large, small = found[several], smallest[several]
        votes = np.zeros(len(several), np.int8)
        for step in around:
            beside = flat[several + step]
            votes += beside == large
            votes -= beside == small
        found[several] = np.where(votes > 0, large, small)
        flat |= found * free
        free &= flat == 0
    return np.ascontiguousarray(padded[1:-1, 1:-1, 1:-1])


def _largest_around(flat: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """The largest of each voxel and its 26 neighbours, of an array with zeros around it that has been made flat."""
    found = flat
    for step in steps:
        before, found = found, np.zeros_like(flat)
        middle = found[step:-step]
        np.maximum(before[: -2 * step], before[step:-step], out=middle)
        np.maximum(middle, before[2 * step :], out=middle)
    return found


def _extent(here: np.ndarray) -> Slices:
    """The smallest box around a set of voxels."""
    spans = (np.flatnonzero(here.any(axis=other)) for other in ((1, 2), (0, 2), (0, 1)))
    return _box((int(span[0]), int(span[-1]) + 1) for span in spans)


def _box(ends: Iterable[tuple[int, int]]) -> Slices:
    """A box from its first and past-last voxel along each axis."""
    return tuple(slice(a, b) for a, b in ends)


def _within(box: Slices, around: Slices) -> Slices:
    """A box as it lies in one around it."""
    return _box((s.start - a.start, s.stop - a.start) for s, a in zip(box, around))

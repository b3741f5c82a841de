"""Types of coordinates. Positions and sizes that users see are x, y, z; arrays are z, y, x."""

from __future__ import annotations

Vec3 = tuple[int, int, int]  # voxels: x, y, z
Nm3 = tuple[float, float, float]  # nm: x, y, z
Zyx = tuple[int, int, int]  # voxels: z, y, x
Voxel = tuple[float, float, float]  # size of a voxel in nm: z, y, x

MIN_VOXEL_NM, MAX_VOXEL_NM = 0.5, 1e5  # a size beyond these is in another unit

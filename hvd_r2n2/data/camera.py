"""The camera of 3D-R2N2's pictures: where it stands, what it sees, and how a metadata line says so.

World: right-handed, y up, an object's bounding box centred at the origin with diagonal 1 (ShapeNet's own scale), its
front towards +x.  The axes are those of the voxel grid, whose unit is the object's longest side instead (see
`voxels`).  Picture: x to the right, y down, pixel (row r, column c) has its centre at (c + 1/2, r + 1/2).

Shapes: N points; H, W picture height and width.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IMAGE_SIZE = 137
# A 35 mm lens before a 32 mm sensor, and the distance of ratio 1: together they reproduce the silhouettes of the
# published pictures.  The last number of a metadata line, 25, is not the field of view.
FIELD_OF_VIEW_DEG = math.degrees(2 * math.atan(16 / 35))
DISTANCE_OF_RATIO_ONE = 1.75
METADATA_LAST_NUMBER = 25
ELEVATION_RANGE_DEG = (25.0, 30.0)
DISTANCE_RATIO_RANGE = (0.65, 0.95)


@dataclass(frozen=True)
class Camera:
    """One view of an object at the origin: angles in degrees, distance as a fraction of `DISTANCE_OF_RATIO_ONE`.

    `in_plane_deg` turns the picture about its centre; the published pictures have 0 throughout.
    """

    azimuth_deg: float
    elevation_deg: float
    distance_ratio: float
    in_plane_deg: float = 0.0

    def position(self) -> NDArray[np.float64]:
        """Return the camera's place in the world, `d (cos el cos az, sin el, cos el sin az)`."""
        azimuth, elevation = math.radians(self.azimuth_deg), math.radians(self.elevation_deg)
        direction = (
            math.cos(elevation) * math.cos(azimuth),
            math.sin(elevation),
            math.cos(elevation) * math.sin(azimuth),
        )
        return self.distance_ratio * DISTANCE_OF_RATIO_ONE * np.array(direction)

    def axes(self) -> NDArray[np.float64]:
        """Return the rows right, up, forward (unit vectors in the world, 3×3); forward points at the origin.

        `up` is undefined for a camera straight above or below the object: elevations stay within ±90 degrees.
        """
        position = self.position()
        forward = -position / np.linalg.norm(position)
        right = np.cross(forward, (0.0, 1.0, 0.0))
        right /= np.linalg.norm(right)
        up = np.cross(right, forward)
        angle = math.radians(self.in_plane_deg)
        turned_right = math.cos(angle) * right + math.sin(angle) * up
        turned_up = math.cos(angle) * up - math.sin(angle) * right
        return np.stack([turned_right, turned_up, forward])

    def project(
        self, points_N3: NDArray[np.floating], image_size: int = IMAGE_SIZE
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return where points fall in the picture, (N×2 x right and y down in pixels, N depths along `forward`).

        Points at depth 0 or behind the camera have no meaningful place.
        """
        in_camera_N3 = (points_N3 - self.position()) @ self.axes().T
        depth_N = in_camera_N3[:, 2]
        focal_pixels = _focal_pixels(image_size)
        x_N = image_size / 2 + focal_pixels * in_camera_N3[:, 0] / depth_N
        y_N = image_size / 2 - focal_pixels * in_camera_N3[:, 1] / depth_N
        return np.stack([x_N, y_N], axis=1), depth_N

    def ray_directions(self, pixels_N2: NDArray[np.floating], image_size: int = IMAGE_SIZE) -> NDArray[np.float64]:
        """Return unit directions (N×3) from `position()` through places of the picture (N×2, x right, y down)."""
        right, up, forward = self.axes()
        focal_pixels = _focal_pixels(image_size)
        x_N1 = (pixels_N2[:, :1] - image_size / 2) / focal_pixels
        y_N1 = (image_size / 2 - pixels_N2[:, 1:]) / focal_pixels
        directions_N3 = forward + x_N1 * right + y_N1 * up
        unit_N3: NDArray[np.float64] = directions_N3 / np.linalg.norm(directions_N3, axis=1, keepdims=True)
        return unit_N3


def draw_cameras(generator: np.random.Generator, num_views: int) -> tuple[Camera, ...]:
    """Draw views as 3D-R2N2 did: azimuth U[0, 360), elevation U[25, 30], in-plane 0, distance ratio U[0.65, 0.95].

    The numbers are rounded to 9 decimals, so that a metadata line says them exactly.
    """
    azimuths_deg = generator.uniform(0, 360, num_views)
    elevations_deg = generator.uniform(*ELEVATION_RANGE_DEG, num_views)
    ratios = generator.uniform(*DISTANCE_RATIO_RANGE, num_views)
    return tuple(
        Camera(round(float(azimuth), 9) % 360, round(float(elevation), 9), round(float(ratio), 9))
        for azimuth, elevation, ratio in zip(azimuths_deg, elevations_deg, ratios, strict=True)
    )


def format_metadata(cameras: Sequence[Camera]) -> str:
    """Return the text of `rendering_metadata.txt`: `azimuth elevation in-plane ratio 25`, one line a view."""
    lines = (
        f"{camera.azimuth_deg!r} {camera.elevation_deg!r} {camera.in_plane_deg:g} {camera.distance_ratio!r}"
        f" {METADATA_LAST_NUMBER}\n"
        for camera in cameras
    )
    return "".join(lines)


def parse_metadata(lines: Iterable[str], source: str = "rendering_metadata.txt") -> tuple[Camera, ...]:
    """Read the cameras of `rendering_metadata.txt`, one of each non-empty line; `source` names the file in errors.

    Raises:
        ValueError: a line is not five finite numbers.
    """
    cameras = []
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields:
            continue
        try:
            numbers = [float(field) for field in fields]
        except ValueError:
            numbers = []
        if len(numbers) != 5 or not all(math.isfinite(value) for value in numbers):
            raise ValueError(
                f"{source}, line {number}: {line.strip()[:80]!r} is not a view"
                " (five numbers are: azimuth elevation in-plane distance-ratio 25)"
            )
        azimuth, elevation, in_plane, ratio, _ = numbers
        cameras.append(Camera(azimuth, elevation, ratio, in_plane))
    return tuple(cameras)


def _focal_pixels(image_size: int) -> float:
    return image_size / 2 / math.tan(math.radians(FIELD_OF_VIEW_DEG) / 2)

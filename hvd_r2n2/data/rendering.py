"""Pictures of a coloured triangle mesh under a camera: ray casting, flat shading, coverage as alpha.

Shapes: F faces; H, W picture height and width.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvd_r2n2.common.extras import require
from hvd_r2n2.data.camera import IMAGE_SIZE, Camera

# Fixed in the world, as in the published pictures: the key light stands before the object's front, above and to
# its +z side (directions towards the light, and strengths).
_AMBIENT = 0.38
_LIGHTS = (((0.55, 0.75, 0.45), 0.62), ((-0.7, 0.25, 0.3), 0.2), ((0.1, 0.2, -0.9), 0.08))
_RAYS_A_SIDE = 2
"""Of a pixel."""


class Renderer:
    """Casts rays into one mesh; made once for all its views.

    The mesh is a `trimesh.Trimesh` with outward normals, in the camera's world (see `camera`).
    """

    def __init__(self, mesh: Any) -> None:
        require("embreex.rtcore_scene")
        ray_casting = require("trimesh.ray.ray_pyembree")
        self._vertices_N3 = np.asarray(mesh.vertices, dtype=np.float64)
        self._normals_F3 = np.asarray(mesh.face_normals, dtype=np.float64)
        self._intersector = ray_casting.RayMeshIntersector(mesh)

    def render(
        self, camera: Camera, colours_F3: NDArray[np.floating], *, image_size: int = IMAGE_SIZE
    ) -> NDArray[np.uint8]:
        """Return the picture (H×W×4 uint8 RGBA, straight alpha, 0 0 0 0 outside) of faces of these colours.

        Colours are (F×3) in [0, 1]; a pixel is the mean of four rays.
        """
        shaded_F3 = np.clip(np.asarray(colours_F3, dtype=np.float64) * self._light_F()[:, None], 0, 1)
        picture_HW4 = np.zeros((image_size, image_size, 4), dtype=np.uint8)
        window, faces_HWS = self._cast(camera, image_size)
        hit_HWS = faces_HWS >= 0
        num_hits_HW = hit_HWS.sum(axis=-1)
        colour_HW3 = (shaded_F3[faces_HWS] * hit_HWS[..., None]).sum(axis=-2) / np.maximum(num_hits_HW, 1)[..., None]
        alpha_HW = num_hits_HW / _RAYS_A_SIDE**2
        picture_HW4[window] = np.rint(255 * np.concatenate([colour_HW3, alpha_HW[..., None]], axis=-1))
        return picture_HW4

    def _light_F(self) -> NDArray[np.float64]:
        light_F = np.full(len(self._normals_F3), _AMBIENT)
        for direction, strength in _LIGHTS:
            towards = np.array(direction) / np.linalg.norm(direction)
            light_F += strength * np.maximum(self._normals_F3 @ towards, 0)
        return light_F

    def _cast(self, camera: Camera, image_size: int) -> tuple[tuple[slice, slice], NDArray[np.int64]]:
        """Return the window of the picture that the mesh can cover, and the face each of its rays meets (or -1)."""
        pixels_N2, depth_N = camera.project(self._vertices_N3, image_size)
        if (depth_N <= 0).any():
            raise ValueError(f"{camera} stands inside or before the mesh; it must see the whole of it")
        left, top = (int(value) for value in np.clip(np.floor(pixels_N2.min(axis=0)), 0, image_size))
        right, bottom = (int(value) for value in np.clip(np.ceil(pixels_N2.max(axis=0)), 0, image_size))
        steps = (np.arange(_RAYS_A_SIDE) + 0.5) / _RAYS_A_SIDE
        y, x, dy, dx = np.meshgrid(np.arange(top, bottom), np.arange(left, right), steps, steps, indexing="ij")
        directions_R3 = camera.ray_directions(np.stack([(x + dx).ravel(), (y + dy).ravel()], axis=1), image_size)
        origins_R3 = np.broadcast_to(camera.position(), directions_R3.shape)
        faces_R = self._intersector.intersects_first(origins_R3, directions_R3)
        window = (slice(top, bottom), slice(left, right))
        return window, np.asarray(faces_R, dtype=np.int64).reshape(bottom - top, right - left, _RAYS_A_SIDE**2)


def render_views(
    mesh: Any, colours_F3: NDArray[np.floating], cameras: Sequence[Camera], *, image_size: int = IMAGE_SIZE
) -> list[NDArray[np.uint8]]:
    """Return the pictures (H×W×4 uint8 RGBA) of a mesh from every camera."""
    renderer = Renderer(mesh)
    return [renderer.render(camera, colours_F3, image_size=image_size) for camera in cameras]

"""Closed surfaces from which the built-in solids are put together, and the random draws that shape them.

World: y up, the front of an object towards +x, left and right along z.

Shapes: N vertices, F faces, S sections of a loft, P points of a section.
"""

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Choice = TypeVar("Choice")
Colour = tuple[float, float, float]
Vector = tuple[float, float, float]
_AXES = {"x": 0, "y": 1, "z": 2}
_ROUND_SIDES = 20


@dataclass(frozen=True)
class Surface:
    """A closed triangle surface with outward normals: vertices (N×3 float64) and faces (F×3 vertex indices)."""

    vertices_N3: NDArray[np.float64]
    faces_F3: NDArray[np.int64]

    def moved(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> "Surface":
        """Return the surface shifted."""
        return Surface(np.add(self.vertices_N3, (x, y, z)), self.faces_F3)

    def scaled(self, x: float = 1.0, y: float = 1.0, z: float = 1.0) -> "Surface":
        """Return the surface stretched about the origin; a negative factor mirrors it (normals stay outward)."""
        faces_F3 = self.faces_F3[:, ::-1] if x * y * z < 0 else self.faces_F3
        return Surface(self.vertices_N3 * (x, y, z), faces_F3)

    def turned(self, axis: str, angle_deg: float, about: Vector = (0.0, 0.0, 0.0)) -> "Surface":
        """Return the surface turned about a line parallel to `axis` through `about` (right-hand rule)."""
        first, second = [i for i in range(3) if i != _AXES[axis]]
        if axis == "y":
            first, second = second, first
        cosine, sine = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
        vertices_N3 = self.vertices_N3 - about
        a_N, b_N = vertices_N3[:, first].copy(), vertices_N3[:, second].copy()
        vertices_N3[:, first] = cosine * a_N - sine * b_N
        vertices_N3[:, second] = sine * a_N + cosine * b_N
        return Surface(vertices_N3 + about, self.faces_F3)


@dataclass(frozen=True)
class Part:
    """A surface and its colour (red, green, blue in [0, 1])."""

    surface: Surface
    colour: Colour


class Draw:
    """Random draws of one model: a NumPy generator that answers in plain Python values."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator

    def uniform(self, low: float, high: float) -> float:
        """Return a number from [low, high)."""
        return float(self._generator.uniform(low, high))

    def integer(self, low: int, high: int) -> int:
        """Return a whole number from low to high, both included."""
        return int(self._generator.integers(low, high + 1))

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return bool(self._generator.random() < probability)

    def choice(self, *options: Choice) -> Choice:
        """Return one of the options, all equally likely."""
        return options[int(self._generator.integers(len(options)))]

    def colour(
        self,
        hue: tuple[float, float] = (0, 1),
        saturation: tuple[float, float] = (0, 1),
        value: tuple[float, float] = (0, 1),
    ) -> Colour:
        """Return a colour drawn from ranges of hue, saturation and value."""
        return colorsys.hsv_to_rgb(self.uniform(*hue) % 1, self.uniform(*saturation), self.uniform(*value))

    def wood(self) -> Colour:
        """Return a colour of wood, from pale birch to dark walnut."""
        return self.colour((0.055, 0.1), (0.3, 0.7), (0.3, 0.9))

    def grey(self, low: float = 0.15, high: float = 0.95) -> Colour:
        """Return a nearly neutral grey."""
        return self.colour((0, 1), (0, 0.06), (low, high))

    def paint(self) -> Colour:
        """Return a colour of paint, fabric or plastic: vivid, muted or grey."""
        if self.chance(0.35):
            return self.grey()
        return self.colour((0, 1), (0.25, 0.9), (0.3, 0.95))


def loft(rings_SP3: ArrayLike, *, closed: bool = False) -> Surface:
    """Join sections (S rings of P points) by quads; cap both ends with fans, or join the last to the first.

    A capped section must be star-shaped about its mean point.  Points of a ring may coincide (a wedge's edge); the
    winding is turned so that the volume is positive.
    """
    rings = np.asarray(rings_SP3, dtype=np.float64)
    num_sections, num_points = rings.shape[:2]
    index_SP = np.arange(num_sections * num_points).reshape(num_sections, num_points)
    if closed:
        index_SP = np.concatenate([index_SP, index_SP[:1]])
    a, b = index_SP[:-1], index_SP[1:]
    a_next, b_next = np.roll(a, -1, axis=1), np.roll(b, -1, axis=1)
    faces = [np.stack([a, a_next, b_next], axis=-1).reshape(-1, 3), np.stack([a, b_next, b], axis=-1).reshape(-1, 3)]
    vertices = [rings.reshape(-1, 3)]
    if not closed:
        first_centre = num_sections * num_points
        vertices.append(rings[[0, -1]].mean(axis=1))
        ring, ring_next = index_SP[0], np.roll(index_SP[0], -1)
        faces.append(np.stack([ring_next, ring, np.full(num_points, first_centre)], axis=1))
        ring, ring_next = index_SP[-1], np.roll(index_SP[-1], -1)
        faces.append(np.stack([ring, ring_next, np.full(num_points, first_centre + 1)], axis=1))
    vertices_N3, faces_F3 = np.concatenate(vertices), np.concatenate(faces)
    corners_F33 = vertices_N3[faces_F3]
    volume = np.einsum("fi,fi->", corners_F33[:, 0], np.cross(corners_F33[:, 1], corners_F33[:, 2]))
    return Surface(vertices_N3, faces_F3[:, ::-1] if volume < 0 else faces_F3)


def outline(
    width: float, height: float, *, roundness: float = 1.0, num_points: int = _ROUND_SIDES
) -> NDArray[np.float64]:
    """Return points (P×2) round a centred ellipse (roundness 1) that squares off towards a rectangle (0)."""
    angles_P = (np.arange(num_points) + 0.5) * 2 * np.pi / num_points
    exponent = max(roundness, 0.05)
    x_P = np.sign(np.cos(angles_P)) * np.abs(np.cos(angles_P)) ** exponent
    y_P = np.sign(np.sin(angles_P)) * np.abs(np.sin(angles_P)) ** exponent
    return np.stack([x_P / np.abs(x_P).max() * width / 2, y_P / np.abs(y_P).max() * height / 2], axis=1)


def prism(outline_P2: ArrayLike, axis: str, low: float, high: float, *, top_scale: float = 1.0) -> Surface:
    """Stretch a star-shaped outline along an axis; its two coordinates are the other two axes in the order x, y, z.

    `top_scale` shrinks or widens the outline at `high`, about the origin.
    """
    points_P2 = np.asarray(outline_P2, dtype=np.float64)
    others = [i for i in range(3) if i != _AXES[axis]]
    rings_SP3 = np.zeros((2, len(points_P2), 3))
    for ring_P3, place, scale in zip(rings_SP3, (low, high), (1.0, top_scale), strict=True):
        ring_P3[:, _AXES[axis]] = place
        ring_P3[:, others] = points_P2 * scale
    return loft(rings_SP3)


def box(low: Vector, high: Vector) -> Surface:
    """Return the axis-aligned box between two corners."""
    (x0, y0, z0), (x1, y1, z1) = low, high
    return loft([[(x, y0, z0), (x, y1, z0), (x, y1, z1), (x, y0, z1)] for x in (x0, x1)])


def block(centre: Vector, size: Vector) -> Surface:
    """Return the axis-aligned box of this centre and size."""
    low, high = np.subtract(centre, np.divide(size, 2)), np.add(centre, np.divide(size, 2))
    return box((low[0], low[1], low[2]), (high[0], high[1], high[2]))


def cushion(centre: Vector, size: Vector, roundness: float = 0.35) -> Surface:
    """Return a box of this centre and size with soft edges all round."""
    ring_P2 = outline(1.0, 1.0, roundness=roundness)
    heights = ((-0.5, 0.82), (-0.38, 0.97), (0.0, 1.0), (0.38, 0.97), (0.5, 0.82))
    rings = [[(x * scale, y, z * scale) for x, z in ring_P2] for y, scale in heights]
    return loft(rings).scaled(*size).moved(*centre)


def revolved(profile_S2: ArrayLike, *, closed: bool = False, num_sides: int = _ROUND_SIDES) -> Surface:
    """Turn a profile of (radius, y) points about the y axis; `closed` joins its ends (a ring or a shell)."""
    angles_P = np.arange(num_sides) * 2 * np.pi / num_sides
    rings = [
        np.stack([radius * np.cos(angles_P), np.full(num_sides, y), radius * np.sin(angles_P)], axis=1)
        for radius, y in np.asarray(profile_S2, dtype=np.float64)
    ]
    return loft(rings, closed=closed)


def disc(axis: str, radius: float, low: float, high: float, *, num_sides: int = _ROUND_SIDES) -> Surface:
    """Return a cylinder about an axis, from low to high along it."""
    return prism(outline(2 * radius, 2 * radius, num_points=num_sides), axis, low, high)


def ball(radius_x: float, radius_y: float, radius_z: float) -> Surface:
    """Return an ellipsoid about the origin."""
    latitudes = np.linspace(-np.pi / 2, np.pi / 2, 13)[1:-1]
    profile = [(0.05, -1.0), *((math.cos(angle), math.sin(angle)) for angle in latitudes), (0.05, 1.0)]
    return revolved(profile).scaled(radius_x, radius_y, radius_z)


def tube(path_S3: ArrayLike, radii: float | Sequence[float], *, num_sides: int = 10) -> Surface:
    """Return a round rod along a path of points; `radii` is one radius, or one for each point."""
    path = np.asarray(path_S3, dtype=np.float64)
    radii_S = np.broadcast_to(np.asarray(radii, dtype=np.float64), len(path))
    tangents_S3 = np.gradient(path, axis=0)
    tangents_S3 /= np.linalg.norm(tangents_S3, axis=1, keepdims=True)
    angles_P1 = (np.arange(num_sides) + 0.5)[:, None] * 2 * np.pi / num_sides
    side = np.eye(3)[int(np.argmin(np.abs(tangents_S3).max(axis=0)))]
    rings = []
    for centre, tangent, radius in zip(path, tangents_S3, radii_S, strict=True):
        # Carry the frame along, so that the sections do not twist.
        side = side - (side @ tangent) * tangent
        side = side / np.linalg.norm(side)
        rings.append(centre + radius * (np.cos(angles_P1) * side + np.sin(angles_P1) * np.cross(tangent, side)))
    return loft(rings)


def rod(start: Vector, end: Vector, radius: float, end_radius: float | None = None, *, num_sides: int = 10) -> Surface:
    """Return a straight round rod, tapered if `end_radius` is given."""
    return tube([start, end], [radius, radius if end_radius is None else end_radius], num_sides=num_sides)


def bar(start: Vector, end: Vector, size: float, end_size: float | None = None) -> Surface:
    """Return an upright square bar: sections parallel to the floor, `size` wide at `start`, `end_size` at `end`."""
    rings = []
    for (x, y, z), width in ((start, size), (end, size if end_size is None else end_size)):
        h = width / 2
        rings.append([(x - h, y, z - h), (x + h, y, z - h), (x + h, y, z + h), (x - h, y, z + h)])
    return loft(rings)


def wing(root: Vector, tip: Vector, root_chord: float, tip_chord: float, thickness: float = 0.12) -> Surface:
    """Return a wing or fin from root to tip (places of the leading edge); chords run towards -x.

    `thickness` is a fraction of the chord; it is across the span, in the y-z plane.
    """
    span = np.subtract(tip, root)[1:]
    normal_y, normal_z = -span[1] / np.linalg.norm(span), span[0] / np.linalg.norm(span)
    profile_P2 = (
        (0, 0),
        (0.1, 0.35),
        (0.3, 0.5),
        (0.65, 0.32),
        (1, 0.03),
        (1, -0.03),
        (0.65, -0.3),
        (0.3, -0.42),
        (0.1, -0.3),
    )
    rings = [
        [
            (x - along * chord, y + across * chord * thickness * normal_y, z + across * chord * thickness * normal_z)
            for along, across in profile_P2
        ]
        for (x, y, z), chord in ((root, root_chord), (tip, tip_chord))
    ]
    return loft(rings)


def both_sides(surface: Surface) -> tuple[Surface, Surface]:
    """Return the surface and its mirror image in z."""
    return surface, surface.scaled(z=-1.0)


def painted(colour: Colour, *surfaces: Surface) -> list[Part]:
    """Return one part a surface, all of one colour."""
    return [Part(surface, colour) for surface in surfaces]

"""Chairs: seats on legs, swivels, runners or panels, with backs and arms or without."""

import math

import numpy as np

from hvd_r2n2.data.shapes.legs import four_legs, plate_base, runners, side_panels, star_base, stretchers
from hvd_r2n2.data.shapes.parts import (
    Colour,
    Draw,
    Part,
    Surface,
    block,
    both_sides,
    box,
    cushion,
    loft,
    outline,
    painted,
    prism,
    rod,
    tube,
)


def chair(draw: Draw) -> list[Part]:
    """Return a chair that faces +x."""
    frame = draw.wood() if draw.chance(0.6) else draw.grey()
    cover = frame if draw.chance(0.35) else draw.paint()
    half_x, half_z = draw.uniform(0.19, 0.27), draw.uniform(0.18, 0.29)
    seat_y, thickness = draw.uniform(0.36, 0.52), draw.uniform(0.02, 0.1)
    back_top = seat_y + draw.uniform(0.28, 0.7)
    size = draw.uniform(0.03, 0.06)
    parts = painted(cover, _seat(draw, half_x, half_z, seat_y, thickness))
    parts += painted(frame, *_support(draw, half_x, half_z, seat_y - thickness, size))
    back = _back(draw, half_z, seat_y - thickness / 2, back_top, size)
    recline = draw.uniform(0, 14)
    shift = -half_x + 0.5 * size
    colours = {"frame": frame, "cover": cover}
    for surface, kind in back:
        placed = surface.turned("z", recline, (0, seat_y - thickness / 2, 0)).moved(x=shift)
        parts += painted(colours[kind], placed)
    if draw.chance(0.45):
        arm_y = seat_y + draw.uniform(0.15, 0.26)
        parts += _arms(draw, frame, cover, half_x, half_z, seat_y - thickness, arm_y, size)
    return parts


def _seat(draw: Draw, half_x: float, half_z: float, top: float, thickness: float) -> Surface:
    style = draw.choice("flat", "flat", "cushion", "round", "trapezium")
    if style == "flat":
        return box((-half_x, top - thickness, -half_z), (half_x, top, half_z))
    if style == "cushion":
        thickness *= 1.5
        return cushion((0, top - thickness / 2, 0), (2 * half_x, thickness, 2 * half_z))
    if style == "round":
        ring_P2 = outline(2 * half_x, 2 * half_z, roundness=draw.uniform(0.4, 1.0), num_points=28)
        return prism(ring_P2, "y", top - thickness, top)
    narrow = draw.uniform(0.7, 0.9) * half_z
    corners = [(-half_x, -narrow), (half_x, -half_z), (half_x, half_z), (-half_x, narrow)]
    return prism(corners, "y", top - thickness, top)


def _support(draw: Draw, half_x: float, half_z: float, top: float, size: float) -> list[Surface]:
    style = draw.choice("legs", "legs", "legs", "star", "plate", "runners", "panels")
    if style == "legs":
        legs = four_legs(draw, half_x, half_z, top, size)
        return legs + stretchers(draw, half_x, half_z, top, size) if draw.chance(0.4) else legs
    if style == "star":
        return star_base(draw, draw.uniform(0.85, 1.1) * max(half_x, half_z), top)
    if style == "plate":
        return plate_base(draw, draw.uniform(0.7, 1.0) * max(half_x, half_z), top)
    if style == "runners":
        return runners(draw, half_x, half_z, top, size)
    return side_panels(draw, half_x, half_z, top, size)


def _back(draw: Draw, half_z: float, low: float, top: float, size: float) -> list[tuple[Surface, str]]:
    """Return the back's surfaces, upright at x = 0, and whether each has the frame's or the cover's colour."""
    style = draw.choice("panel", "arched", "slats", "ladder", "framed", "wrapped", "padded", "rounded")
    width = half_z * draw.uniform(0.8, 1.0)
    if style == "panel":
        gap = draw.choice(0.0, 0.0, draw.uniform(0.1, 0.3)) * (top - low)
        panel = box((-size / 2, low + gap, -width), (size / 2, top, width))
        struts = both_sides(rod((0, low, 0.6 * width), (0, low + gap + size, 0.6 * width), size / 3)) if gap else ()
        return [(panel, "cover"), *((strut, "frame") for strut in struts)]
    if style == "arched":
        arch = [(top - 0.9 * width + 0.9 * width * math.sin(t), width * math.cos(t)) for t in np.linspace(0, np.pi, 13)]
        points = [(low, width), *arch, (low, -width)]
        return [(prism(points, "x", -size / 2, size / 2), "cover")]
    if style == "wrapped":
        return [(_wrapped(width, low, top, size, draw.uniform(50, 100)), "cover")]
    if style == "padded":
        depth = draw.uniform(0.06, 0.14)
        pad = cushion((0, 0, 0), (top - low, depth, 2 * width)).turned("z", 90).moved(y=(top + low) / 2)
        return [(pad, "cover")]
    if style == "rounded":
        ring_P2 = outline(top - low, 2 * width, roundness=draw.uniform(0.5, 1.0), num_points=28)
        return [(prism(ring_P2, "x", -size / 2, size / 2).moved(y=(top + low) / 2), "cover")]
    posts = [(post, "frame") for post in both_sides(box((-size / 2, low, width - size), (size / 2, top, width)))]
    rail = (box((-size / 2, top - draw.uniform(1, 3) * size, -width), (size / 2, top, width)), "frame")
    inside = width - size
    if style == "framed":
        panel = box((-size / 4, low + draw.uniform(0.05, 0.35) * (top - low), -inside), (size / 4, top - size, inside))
        return [*posts, rail, (panel, "cover")]
    count = draw.integer(2, 5)
    places = [(i + 1) / (count + 1) for i in range(count)]
    if style == "slats":
        bars = [
            block((0, (low + top) / 2, (2 * t - 1) * inside), (size / 2, top - low - size, size * 0.7)) for t in places
        ]
    else:
        height = draw.uniform(0.3, 0.6) * (top - low) / (count + 1)
        bars = [block((0, low + t * (top - low), 0), (size / 2, height, 2 * inside)) for t in places]
    return [*posts, rail, *((surface, "frame") for surface in bars)]


def _wrapped(width: float, low: float, top: float, size: float, half_angle_deg: float) -> Surface:
    """Return a back that curls forward round the sitter, lower at its ends."""
    rings = []
    for angle in np.radians(np.linspace(-half_angle_deg, half_angle_deg, 17)):
        crest = low + (top - low) * (0.45 + 0.55 * math.cos(0.8 * angle) ** 2)
        inner, outer = width - size, width
        along, across = -math.cos(angle), math.sin(angle)
        rings.append(
            [(r * along, y, r * across) for r, y in ((inner, low), (outer, low), (outer, crest), (inner, crest))]
        )
    return loft(np.add(rings, (width, 0, 0)))


def _arms(
    draw: Draw, frame: Colour, cover: Colour, half_x: float, half_z: float, low: float, top: float, size: float
) -> list[Part]:
    style = draw.choice("post", "post", "panel", "loop", "padded")
    z = half_z + draw.uniform(-0.2, 0.5) * size
    front = half_x * draw.uniform(0.5, 1.0)
    if style == "panel":
        thickness = draw.uniform(0.6, 2.0) * size
        return painted(cover, *both_sides(box((-half_x, low, z - thickness / 2), (front, top, z + thickness / 2))))
    if style == "padded":
        arm = cushion((0, (low + top) / 2, z), (half_x + front, top - low, 2.5 * size))
        return painted(cover, *both_sides(arm.moved(x=(front - half_x) / 2)))
    if style == "loop":
        path = [(-half_x, top, z), (0.7 * front, top, z), (front, top - size, z), (front, low, z)]
        return painted(frame, *both_sides(tube(path, 0.4 * size)))
    post = rod((0.8 * front, low, z), (0.8 * front, top, z), 0.4 * size)
    rest = block(((front - half_x) / 2, top, z), (front + half_x, 0.5 * size, 1.3 * size))
    return painted(frame, *both_sides(post), *both_sides(rest))

"""What furniture stands on: legs, pedestals, runners and panels, from the floor (y = 0) up to a height."""

import math
from itertools import pairwise

from hvd_r2n2.data.shapes.parts import Draw, Surface, bar, block, both_sides, box, disc, revolved, rod, tube


def four_legs(draw: Draw, half_x: float, half_z: float, top: float, size: float) -> list[Surface]:
    """Return four legs under the corners of a (2 half_x) × (2 half_z) top: square, round, tapered, turned, splayed."""
    style = draw.choice("square", "round", "tapered", "turned", "splayed", "round-splayed")
    splay = draw.uniform(0.08, 0.25) * top if "splayed" in style else 0.0
    splay = min(splay, 0.5 * half_x, 0.5 * half_z)
    inset = size / 2 + (splay if draw.chance(0.5) else 0.0)
    legs = []
    for x in (-1, 1):
        for z in (-1, 1):
            head = (x * (half_x - inset), top, z * (half_z - inset))
            foot = (x * (half_x - inset + splay), 0.0, z * (half_z - inset + splay))
            if style in ("square", "splayed"):
                legs.append(bar(foot, head, size))
            elif style == "tapered":
                legs.append(bar(foot, head, 0.5 * size, size))
            elif style == "turned":
                profile = [(0.25, 0), (0.3, 0.1), (0.5, 0.2), (0.3, 0.3), (0.32, 0.5), (0.5, 0.78), (0.5, 1)]
                legs.append(
                    revolved([(r * size, y * top) for r, y in profile], num_sides=12).moved(x=head[0], z=head[2])
                )
            else:
                legs.append(rod(foot, head, 0.35 * size, 0.5 * size))
    return legs


def stretchers(draw: Draw, half_x: float, half_z: float, top: float, size: float) -> list[Surface]:
    """Return rails between four legs: along the sides, an H, or all round."""
    height, style = draw.uniform(0.2, 0.5) * top, draw.choice("sides", "h", "round")
    x, z = half_x - size, half_z - size
    rails = [block((0, height, side), (2 * x, 0.6 * size, 0.5 * size)) for side in (-z, z)]
    if style == "h":
        rails.append(block((0, height, 0), (0.5 * size, 0.6 * size, 2 * z)))
    elif style == "round":
        rails += [block((side, height, 0), (0.5 * size, 0.6 * size, 2 * z)) for side in (-x, x)]
    return rails


def star_base(draw: Draw, radius: float, top: float) -> list[Surface]:
    """Return a swivel foot: a column, four to six arms, with casters or not."""
    arms, hub = draw.integer(4, 6), draw.uniform(0.14, 0.25) * top
    casters = draw.chance(0.6)
    wheel = 0.09 * radius + 0.01
    low = 2 * wheel if casters else 0.02 * top
    surfaces = [
        disc("y", draw.uniform(0.08, 0.14) * radius, hub, top),
        disc("y", 0.18 * radius, low, hub + 0.08 * top),
    ]
    for arm in range(arms):
        angle = 2 * math.pi * (arm + 0.5) / arms
        x, z = radius * math.cos(angle), radius * math.sin(angle)
        surfaces.append(rod((0, hub, 0), (x, low, z), 0.1 * radius, 0.06 * radius, num_sides=6))
        if casters:
            surfaces.append(disc("z", wheel, -0.6 * wheel, 0.6 * wheel, num_sides=10).moved(x, wheel, z))
    return surfaces


def plate_base(draw: Draw, radius: float, top: float) -> list[Surface]:
    """Return a column on a flat, domed or square foot."""
    style, thickness = draw.choice("disc", "dome", "square"), draw.uniform(0.03, 0.07) * top
    column = draw.uniform(0.08, 0.2) * radius
    if style == "disc":
        foot = disc("y", radius, 0, thickness, num_sides=28)
    elif style == "dome":
        profile = [(radius, 0), (radius, 0.4 * thickness), (0.6 * radius, 1.6 * thickness), (column, 5 * thickness)]
        foot = revolved(profile, num_sides=28)
    else:
        foot = block((0, thickness / 2, 0), (1.7 * radius, thickness, 1.7 * radius))
    if draw.chance(0.3):
        stem = revolved(
            [(1.5 * column, 0), (column, 0.2 * top), (2.2 * column, 0.5 * top), (column, 0.75 * top), (2 * column, top)]
        )
    else:
        stem = disc("y", column, 0.5 * thickness, top)
    return [foot, stem]


def runners(draw: Draw, half_x: float, half_z: float, top: float, size: float) -> list[Surface]:
    """Return two side frames that stand on the floor with a rail: closed loops, or cantilevers open at the back."""
    z, r, cantilever = half_z - size / 2, 0.45 * size, draw.chance(0.4)
    path = [(-half_x, top, z), (half_x - r, top, z), (half_x - r, r, z), (-half_x, r, z)]
    surfaces: list[Surface] = []
    if draw.chance(0.5):
        frame = [rod(start, end, r) for start, end in pairwise(path)]
        if not cantilever:
            frame.append(rod(path[3], path[0], r))
    else:
        frame = [box((-half_x, 0, z - r), (half_x, 2 * r, z + r)), bar((half_x - r, 0, z), (half_x - r, top, z), 2 * r)]
        if not cantilever:
            frame.append(bar((-half_x + r, 0, z), (-half_x + r, top, z), 2 * r))
    for surface in frame:
        surfaces += both_sides(surface)
    if cantilever or draw.chance(0.3):
        surfaces.append(tube([(-half_x, r, -z), (-half_x, r, z)], r))
    return surfaces


def side_panels(draw: Draw, half_x: float, half_z: float, top: float, size: float) -> list[Surface]:
    """Return two solid side panels, with a rear panel or a low rail between them or nothing."""
    thickness = draw.uniform(0.5, 1.2) * size
    surfaces = list(both_sides(box((-half_x, 0, half_z - thickness), (half_x, top, half_z))))
    kind = draw.choice("open", "rear", "rail")
    if kind == "rear":
        surfaces.append(box((-half_x, draw.uniform(0, 0.5) * top, -half_z), (-half_x + thickness, top, half_z)))
    elif kind == "rail":
        surfaces.append(box((-0.3 * size, 0.2 * top, -half_z), (0.3 * size, 0.35 * top, half_z)))
    return surfaces

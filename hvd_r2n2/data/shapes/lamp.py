"""Lamps: on tables, floors, walls and ceilings."""

import math

import numpy as np

from hvd_r2n2.data.shapes.legs import plate_base
from hvd_r2n2.data.shapes.parts import (
    Colour,
    Draw,
    Part,
    Surface,
    ball,
    block,
    disc,
    outline,
    painted,
    prism,
    revolved,
    rod,
    tube,
)

_GLOW = (0.98, 0.95, 0.8)


def lamp(draw: Draw) -> list[Part]:
    """Return a lamp: table, floor, desk, arc, tripod, hanging, chandelier, lantern or wall lamp."""
    metal = draw.choice(draw.grey(0.1, 0.8), draw.colour((0.09, 0.13), (0.4, 0.7), (0.5, 0.8)), draw.paint())
    styles = (_table_lamp, _table_lamp, _floor_lamp, _floor_lamp, _desk_lamp, _arc_lamp, _tripod_lamp, _hanging_lamp)
    style = draw.choice(*styles, _hanging_lamp, _chandelier, _lantern, _wall_lamp)
    return style(draw, metal)


def _shade(draw: Draw, radius: float, height: float, low: float) -> list[Part]:
    """Return a shade over a bulb: cone, drum, dome, globe, bell or square pyramid."""
    colour = draw.choice(draw.colour((0.08, 0.15), (0.05, 0.35), (0.8, 1.0)), draw.paint())
    style = draw.choice("cone", "cone", "drum", "dome", "globe", "bell", "square")
    wall = 0.05 * radius
    if style == "globe":
        return painted(colour, ball(radius, height / 2, radius).moved(y=low + height / 2))
    if style == "square":
        ring_P2 = outline(2 * radius, 2 * radius, roundness=0.05, num_points=12)
        return painted(colour, prism(ring_P2, "y", low, low + height, top_scale=draw.uniform(0.4, 0.9)))
    top = {"cone": draw.uniform(0.3, 0.7), "drum": 1.0, "dome": 0.25, "bell": 0.3}[style]
    steps = np.linspace(0, 1, 7)
    if style == "dome":
        outer = [(radius * max(math.sqrt(1 - 0.95 * t * t), 0.1), low + t * height) for t in steps]
    elif style == "bell":
        outer = [(radius * (top + (1 - top) * (1 - t) ** 2), low + t * height) for t in steps]
    else:
        outer = [(radius * (1 + (top - 1) * t), low + t * height) for t in steps]
    inner = [(r - wall, y) for r, y in reversed(outer)]
    bulb = ball(0.25 * radius, 0.3 * height, 0.25 * radius).moved(y=low + 0.5 * height)
    lid = disc("y", outer[-1][0] - 0.5 * wall, low + 0.93 * height, low + 0.97 * height)
    parts = painted(colour, revolved([*outer, *inner], closed=True)) + painted(_GLOW, bulb)
    return parts + painted(colour, lid) if style in ("dome", "bell") or draw.chance(0.4) else parts


def _vase(draw: Draw, radius: float, height: float) -> Surface:
    """Return a turned body with two to four bulges."""
    knots = draw.integer(3, 6)
    radii = [radius, *(radius * draw.uniform(0.25, 1.0) for _ in range(knots)), 0.2 * radius]
    heights = np.linspace(0, height, len(radii))
    fine = np.linspace(0, height, 16)
    smooth = np.interp(fine, heights, radii)
    smooth = np.convolve(np.pad(smooth, 1, mode="edge"), (0.25, 0.5, 0.25), mode="valid")
    return revolved(np.stack([smooth, fine], axis=1))


def _table_lamp(draw: Draw, metal: Colour) -> list[Part]:
    height, radius = draw.uniform(0.4, 0.7), draw.uniform(0.1, 0.24)
    shade_radius, shade_height = draw.uniform(0.2, 0.4), draw.uniform(0.2, 0.42)
    body = _vase(draw, radius, height) if draw.chance(0.65) else None
    surfaces = [body] if body else plate_base(draw, radius, height)
    stem = disc("y", 0.02, height - 0.05, height + 0.5 * shade_height)
    return painted(metal, *surfaces, stem) + _shade(draw, shade_radius, shade_height, height)


def _floor_lamp(draw: Draw, metal: Colour) -> list[Part]:
    height, radius = draw.uniform(1.1, 1.6), draw.uniform(0.16, 0.28)
    shade_radius, shade_height = draw.uniform(0.16, 0.34), draw.uniform(0.15, 0.4)
    foot = disc("y", radius, 0, draw.uniform(0.02, 0.08), num_sides=28)
    pole = disc("y", draw.uniform(0.015, 0.04), 0, height + 0.5 * shade_height)
    parts = painted(metal, foot, pole) + _shade(draw, shade_radius, shade_height, height)
    if draw.chance(0.25):
        parts += painted(
            draw.wood(), disc("y", draw.uniform(0.2, 0.32), 0.45 * height, 0.45 * height + 0.03, num_sides=28)
        )
    return parts


def _desk_lamp(draw: Draw, metal: Colour) -> list[Part]:
    """Return a jointed lamp: a foot, two arms and a tilted head towards +x."""
    first, second = draw.uniform(0.3, 0.5), draw.uniform(0.3, 0.5)
    lean, reach = math.radians(draw.uniform(95, 130)), math.radians(draw.uniform(10, 60))
    elbow = (first * math.cos(lean), 0.04 + first * math.sin(lean), 0.0)
    head = (elbow[0] + second * math.cos(reach), elbow[1] + second * math.sin(reach), 0.0)
    radius = draw.uniform(0.015, 0.03)
    surfaces = [
        disc("y", draw.uniform(0.12, 0.2), 0, 0.05, num_sides=28)
        if draw.chance(0.6)
        else block((0, 0.03, 0), (0.3, 0.06, 0.24))
    ]
    surfaces += [rod((0, 0.04, 0), elbow, radius), rod(elbow, head, radius), ball(0.04, 0.04, 0.04).moved(*elbow)]
    width, length = draw.uniform(0.08, 0.16), draw.uniform(0.12, 0.25)
    cup = revolved(
        [
            (0.3 * width, 0),
            (0.4 * width, -0.3 * length),
            (width, -length),
            (0.85 * width, -length),
            (0.2 * width, -0.3 * length),
            (0.1 * width, -0.02),
        ],
        closed=True,
    )
    tilt = draw.uniform(10, 50)
    bulb = ball(0.5 * width, 0.5 * width, 0.5 * width).moved(y=-0.7 * length)
    placed = [surface.turned("z", tilt).moved(*head) for surface in (cup, bulb)]
    return painted(metal, *surfaces, placed[0]) + painted(_GLOW, placed[1])


def _arc_lamp(draw: Draw, metal: Colour) -> list[Part]:
    """Return a floor lamp whose pole bends over towards +x."""
    height, reach = draw.uniform(1.0, 1.5), draw.uniform(0.5, 1.0)
    bend = np.linspace(0, math.radians(draw.uniform(100, 150)), 10)
    arc = [(reach / 2 * (1 - math.cos(t)), height + 0.35 * math.sin(t), 0.0) for t in bend]
    end = arc[-1]
    size = draw.uniform(0.14, 0.24)
    foot = disc("y", draw.uniform(0.18, 0.28), 0, 0.06, num_sides=28)
    pole = tube([(0, 0, 0), (0, 0.5 * height, 0), *arc], draw.uniform(0.018, 0.03))
    shade = [Part(p.surface.moved(x=end[0], y=end[1] - 0.9 * size), p.colour) for p in _shade(draw, size, size, 0)]
    return painted(metal, foot, pole) + shade


def _tripod_lamp(draw: Draw, metal: Colour) -> list[Part]:
    height, spread = draw.uniform(0.6, 1.2), draw.uniform(0.2, 0.4)
    colour = draw.wood() if draw.chance(0.6) else metal
    turn = draw.uniform(0, 2)
    feet = [(spread * math.cos(turn + i * 2.0944), 0.0, spread * math.sin(turn + i * 2.0944)) for i in range(3)]
    legs = [rod(foot, (0.1 * foot[0], height, 0.1 * foot[2]), draw.uniform(0.018, 0.035)) for foot in feet]
    hub = disc("y", 0.05, height - 0.04, height + 0.15)
    return painted(colour, *legs, hub) + _shade(draw, draw.uniform(0.2, 0.36), draw.uniform(0.2, 0.4), height + 0.04)


def _hanging_lamp(draw: Draw, metal: Colour) -> list[Part]:
    cord, radius, height = draw.uniform(0.25, 0.9), draw.uniform(0.18, 0.45), draw.uniform(0.15, 0.5)
    rose = disc("y", draw.uniform(0.06, 0.12), height + cord, height + cord + 0.05)
    wire = disc("y", 0.014, 0.8 * height, height + cord, num_sides=8)
    count = draw.choice(1, 1, 1, 2, 3)
    single = painted(metal, rose, wire) + _shade(draw, radius, height, 0.0)
    if count == 1:
        return single
    step = 2.2 * radius
    parts = [Part(p.surface.moved(z=(i - (count - 1) / 2) * step), p.colour) for i in range(count) for p in single]
    return parts + painted(metal, block((0, height + cord + 0.04, 0), (0.12, 0.06, (count - 1) * step + 0.2)))


def _chandelier(draw: Draw, metal: Colour) -> list[Part]:
    arms, radius, drop = draw.integer(3, 8), draw.uniform(0.3, 0.5), draw.uniform(0.3, 0.7)
    sag = draw.uniform(0.05, 0.25)
    parts = painted(metal, disc("y", 0.02, 0, drop), disc("y", 0.09, drop, drop + 0.05))
    parts += painted(metal, _vase(draw, 0.07, 0.3).moved(y=-sag))
    size = draw.uniform(0.06, 0.12)
    shade = _shade(draw, size, 1.3 * size, 0.0)
    for arm in range(arms):
        angle = 2 * math.pi * arm / arms
        x, z = math.cos(angle), math.sin(angle)
        path = [
            (r * radius * x, y, r * radius * z) for r, y in ((0, 0), (0.4, -sag), (0.8, -sag), (1, -0.02), (1, 0.06))
        ]
        parts += painted(metal, tube(path, 0.018, num_sides=8))
        parts += [Part(p.surface.moved(radius * x, 0.05, radius * z), p.colour) for p in shade]
    return parts


def _lantern(draw: Draw, metal: Colour) -> list[Part]:
    """Return a lantern: a glass body between a foot and a roof, on a post or a short base."""
    half, height = draw.uniform(0.1, 0.2), draw.uniform(0.25, 0.5)
    post = draw.choice(0.05, draw.uniform(0.5, 1.3))
    roundness = draw.choice(0.05, 1.0)
    ring_P2 = outline(2 * half, 2 * half, roundness=roundness, num_points=16)
    roof = prism(1.3 * ring_P2, "y", post + height, post + height + draw.uniform(0.08, 0.25), top_scale=0.15)
    glass = prism(0.8 * ring_P2, "y", post, post + height, top_scale=draw.uniform(1.0, 1.3))
    foot = prism(1.1 * ring_P2, "y", 0, 0.06)
    pole = disc("y", draw.uniform(0.2, 0.4) * half, 0, post)
    return painted(metal, roof, foot, pole, prism(ring_P2, "y", post - 0.03, post + 0.02)) + painted(_GLOW, glass)


def _wall_lamp(draw: Draw, metal: Colour) -> list[Part]:
    """Return a plate on a wall at -x, an arm towards +x, and a shade."""
    reach, size = draw.uniform(0.2, 0.5), draw.uniform(0.14, 0.26)
    plate = prism(
        outline(draw.uniform(0.2, 0.6), draw.uniform(0.14, 0.3), roundness=draw.choice(0.05, 1.0)), "x", -0.04, 0
    )
    arm = tube([(0, 0, 0), (0.5 * reach, draw.uniform(-0.15, 0.1), 0), (reach, 0, 0), (reach, 0.1, 0)], 0.025)
    shade = [Part(p.surface.moved(x=reach, y=0.08), p.colour) for p in _shade(draw, size, 1.2 * size, 0)]
    return painted(metal, plate, arm) + shade

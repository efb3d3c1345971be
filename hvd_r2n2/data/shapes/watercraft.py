"""Watercraft: sailing boats, motor boats, rowing boats, ferries, freighters, warships, tugs and submarines."""

import math

import numpy as np

from hvd_r2n2.data.shapes.parts import (
    Colour,
    Draw,
    Part,
    Surface,
    ball,
    block,
    both_sides,
    box,
    disc,
    loft,
    outline,
    painted,
    prism,
    rod,
    wing,
)

_GLASS = (0.12, 0.17, 0.24)


def watercraft(draw: Draw) -> list[Part]:
    """Return a vessel whose bow points to +x; its length is about 1."""
    styles = (
        _sailing_boat,
        _sailing_boat,
        _motor_boat,
        _motor_boat,
        _rowing_boat,
        _liner,
        _freighter,
        _warship,
        _tug,
        _submarine,
    )
    return draw.choice(*styles, _catamaran, _tall_ship)(draw, draw.paint())


def _hull(
    draw: Draw, beam: float, depth: float, *, sheer: float = 0.25, stern: float = 0.75, full: float = 2.0
) -> Surface:
    """Return a hull from x = -0.5 to 0.5, its deck about y = 0.

    `sheer` lifts the deck towards the bow and `stern` is the transom's width, as fractions of depth and beam; a
    larger `full` keeps the width further forward.
    """
    flare, keel = draw.uniform(0.35, 0.8), draw.uniform(0.0, 0.25)
    rings = []
    for t in np.linspace(0, 1, 13):
        width = beam * min(1.0, stern + 2.2 * (1 - stern) * t) * (1 - t ** (2 * full)) + 0.004
        deck = sheer * depth * max(0.0, (t - 0.4) / 0.6) ** 2
        bottom = -depth * (1 - 0.85 * max(0.0, (t - 0.75) / 0.25) ** 2)
        x, bilge = t - 0.5, flare + (1 - flare) * (1 - t) * 0.5
        half, low = width / 2, bottom * 0.65 + deck * 0.35
        rings.append(
            [
                (x, deck, half),
                (x, low, half * bilge),
                (x, bottom, half * keel),
                (x, bottom, -half * keel),
                (x, low, -half * bilge),
                (x, deck, -half),
            ]
        )
    return loft(rings)


def _tower(draw: Draw, colour: Colour, x: float, length: float, width: float, low: float, tiers: int) -> list[Part]:
    """Return a superstructure of tiers that shrink upwards, each with a band of windows."""
    parts, y = [], low
    for _ in range(tiers):
        height = draw.uniform(0.035, 0.055)
        parts += painted(colour, block((x, y + height / 2, 0), (length, height, width)))
        parts += painted(_GLASS, block((x, y + 0.6 * height, 0), (1.01 * length, 0.3 * height, 1.02 * width)))
        y, length, width = y + height, length * draw.uniform(0.75, 0.95), width * draw.uniform(0.82, 0.97)
        x += draw.uniform(-0.04, 0.04) * length
    mast = rod((x, y, 0), (x, y + draw.uniform(0.04, 0.12), 0), 0.008)
    return parts + painted(colour, mast)


def _sail(foot: tuple[float, float, float], length: float, height: float) -> Surface:
    """Return a triangular sail, its foot running from `foot` to -x, thin and slightly hollow."""
    x, y, z = foot
    rings = []
    for t in np.linspace(0, 1, 6):
        chord = length * (1 - t) + 0.004
        bow = 0.03 * math.sin(math.pi * min(t + 0.15, 1))
        rings.append(
            [
                (x, y + t * height, z),
                (x - chord / 2, y + t * height, z + bow + 0.008),
                (x - chord, y + t * height, z),
                (x - chord / 2, y + t * height, z + bow - 0.004),
            ]
        )
    return loft(rings)


def _sailing_boat(draw: Draw, colour: Colour) -> list[Part]:
    beam, depth = draw.uniform(0.2, 0.32), draw.uniform(0.1, 0.16)
    hull = _hull(draw, beam, depth, stern=draw.uniform(0.5, 0.9), full=draw.uniform(1.0, 2.0))
    height, x = draw.uniform(0.8, 1.3), draw.uniform(0.0, 0.14)
    parts = painted(colour, hull) + painted(draw.wood(), box((-0.3, -0.02, -0.3 * beam), (x - 0.05, 0.05, 0.3 * beam)))
    parts += painted(
        (0.75, 0.75, 0.77), rod((x, -0.05, 0), (x, height, 0), 0.012), rod((x, 0.1, 0), (x - 0.42, 0.1, 0), 0.01)
    )
    canvas = draw.choice((0.95, 0.94, 0.9), draw.paint())
    if draw.chance(0.85):
        parts += painted(
            canvas, _sail((x - 0.012, 0.11, 0), draw.uniform(0.3, 0.42), draw.uniform(0.75, 0.95) * (height - 0.11))
        )
        if draw.chance(0.75):
            jib = [(0.48, 0.06, 0.0), (x + 0.03, 0.08, 0.02), (x + 0.015, draw.uniform(0.6, 0.9) * height, 0.0)]
            ring, half = np.asarray(jib), np.array((0, 0, 0.004))
            parts += painted(canvas, loft([ring + half, ring - half]))
    if draw.chance(0.6):
        keel = block((-0.02, -depth - draw.uniform(0.05, 0.1), 0), (0.16, 0.2, 0.025))
        parts += painted((0.2, 0.2, 0.25), keel, block((-0.46, -depth - 0.02, 0), (0.05, 0.14, 0.02)))
    return parts


def _motor_boat(draw: Draw, colour: Colour) -> list[Part]:
    beam, depth = draw.uniform(0.28, 0.4), draw.uniform(0.12, 0.2)
    parts = painted(
        colour,
        _hull(
            draw, beam, depth, sheer=draw.uniform(0.1, 0.4), stern=draw.uniform(0.85, 1.0), full=draw.uniform(1.2, 2.2)
        ),
    )
    white, x = draw.grey(0.8, 0.98), draw.uniform(-0.1, 0.15)
    if draw.chance(0.5):
        length, height, width = draw.uniform(0.25, 0.45), draw.uniform(0.08, 0.16), draw.uniform(0.6, 0.85) * beam
        profile = [
            (x - length / 2, -0.02),
            (x + length / 2 + 0.1, -0.02),
            (x + length / 2 - 0.05, height),
            (x - length / 2, height),
        ]
        glass = [
            (x - 0.98 * length / 2, 0.4 * height),
            (x + length / 2 + 0.065, 0.3 * height),
            (x + length / 2 - 0.015, 0.85 * height),
            (x - 0.98 * length / 2, 0.85 * height),
        ]
        parts += painted(white, prism(profile, "z", -width / 2, width / 2))
        parts += painted(_GLASS, prism(glass, "z", -0.52 * width, 0.52 * width))
        if draw.chance(0.5):
            y = height + draw.uniform(0.05, 0.1)
            roof = block((x - 0.05, y, 0), (0.7 * length, 0.02, 0.8 * width))
            posts = both_sides(rod((x - 0.05, height, 0.35 * width), (x - 0.05, y, 0.35 * width), 0.012))
            parts += painted(white, roof, *posts)
    else:
        screen = [(x, 0.0), (x + 0.12, 0.0), (x + 0.02, 0.08), (x, 0.08)]
        parts += painted(_GLASS, prism(screen, "z", -0.38 * beam, 0.38 * beam))
        seats = [block((x - 0.12 - 0.2 * i, 0.02, 0), (0.07, 0.09, 0.7 * beam)) for i in range(draw.integer(1, 2))]
        parts += painted(draw.paint(), *seats)
    engine = block((-0.52, 0.0, 0), (0.07, 0.14, 0.1))
    if draw.chance(0.6):
        parts += painted((0.15, 0.15, 0.16), engine, block((-0.52, -0.12, 0), (0.03, 0.2, 0.03)))
    return parts


def _rowing_boat(draw: Draw, colour: Colour) -> list[Part]:
    """Return an open boat: an outer and an inner skin, thwarts, oars or none."""
    beam, depth, pointed = draw.uniform(0.2, 0.36), draw.uniform(0.09, 0.16), draw.chance(0.5)
    rings = []
    for t in np.linspace(0, 1, 15):
        width = (
            beam
            / 2
            * (1 - abs(2 * t - 1) ** 2.4 if pointed else 1 - max(0.0, 1.6 * t - 0.6) ** 2 * 0.97 - 0.25 * (1 - t))
            + 0.02
        )
        rim = draw_up = 0.35 * depth * abs(2 * t - 1) ** 2
        low, skin = -depth * (1 - 0.3 * abs(2 * t - 1) ** 3), 0.018
        x = t - 0.5
        inner = max(width - skin, 0.004)
        floor = min(low + 2 * skin, rim - 0.01)
        rings.append(
            [
                (x, rim, width),
                (x, low, 0.55 * width),
                (x, low, -0.55 * width),
                (x, rim, -width),
                (x, draw_up, -inner),
                (x, floor, -0.5 * inner),
                (x, floor, 0.5 * inner),
                (x, rim, inner),
            ]
        )
    parts = painted(colour, *_open_skin(np.asarray(rings)))
    wood = draw.wood()
    for x in np.linspace(-0.25, 0.22, draw.integer(2, 3)):
        parts += painted(wood, block((float(x), -0.25 * depth, 0), (0.06, 0.02, 0.86 * beam)))
    if draw.chance(0.5):
        oar = rod((0.0, 0.02, 0.4 * beam), (-0.15, -0.05, beam + 0.15), 0.01)
        blade = block((-0.15, -0.05, beam + 0.18), (0.05, 0.02, 0.14))
        parts += painted(wood, *both_sides(oar), *both_sides(blade))
    return parts


def _open_skin(rings_S83: np.ndarray) -> list[Surface]:
    """Return a boat's skin as three strips (side, floor, side), so that each is a loft of convex sections."""
    strips = ([0, 1, 6, 7], [1, 2, 5, 6], [2, 3, 4, 5])
    return [loft(rings_S83[:, strip]) for strip in strips]


def _liner(draw: Draw, colour: Colour) -> list[Part]:
    """Return a passenger ship or ferry with funnels."""
    beam, depth = draw.uniform(0.13, 0.2), draw.uniform(0.07, 0.11)
    parts = painted(colour, _hull(draw, beam, depth, stern=draw.uniform(0.6, 0.95), full=draw.uniform(2, 4)))
    white = draw.grey(0.85, 0.98)
    tiers, length = draw.integer(2, 4), draw.uniform(0.5, 0.75)
    parts += _tower(draw, white, draw.uniform(-0.1, 0.0), length, 0.9 * beam, 0.0, tiers)
    funnel_colour, y = draw.paint(), 0.03 * tiers
    lean = draw.uniform(0, 0.03)
    for i in range(draw.integer(1, 4)):
        x = 0.12 - 0.13 * i
        parts += painted(funnel_colour, rod((x, y, 0), (x - lean, y + draw.uniform(0.12, 0.16), 0), 0.03, 0.026))
    return parts


def _freighter(draw: Draw, colour: Colour) -> list[Part]:
    """Return a container ship, bulk carrier or tanker, its bridge aft."""
    beam, depth = draw.uniform(0.13, 0.19), draw.uniform(0.08, 0.12)
    parts = painted(colour, _hull(draw, beam, depth, stern=draw.uniform(0.85, 1.0), full=draw.uniform(3, 5)))
    bridge = draw.choice(-0.38, -0.36, 0.3)
    parts += _tower(draw, draw.grey(0.8, 0.98), bridge, 0.09, 0.85 * beam, 0.0, draw.integer(3, 4))
    low, high = (-0.29, 0.34) if bridge < 0 else (-0.45, 0.22)
    kind = draw.choice("containers", "containers", "hatches", "tanks")
    rows = draw.integer(4, 7)
    step = (high - low) / rows
    for i in range(rows):
        x = low + (i + 0.5) * step
        if kind == "containers":
            for z in (-0.3, 0.0, 0.3):
                height = 0.035 * draw.integer(1, 4)
                parts += painted(draw.paint(), block((x, height / 2, z * beam), (0.86 * step, height, 0.28 * beam)))
        elif kind == "hatches":
            parts += painted(draw.grey(0.4, 0.7), block((x, 0.01, 0), (0.75 * step, 0.04, 0.7 * beam)))
            if i % 2 == 0:
                parts += painted(
                    (0.85, 0.75, 0.3),
                    rod((x + step / 2, 0, 0), (x + step / 2, 0.16, 0), 0.01),
                    rod((x + step / 2, 0.08, 0), (x - 0.1 * step, 0.17, 0), 0.008),
                )
        else:
            parts += painted(draw.grey(0.6, 0.95), ball(0.45 * step, 0.42 * beam, 0.42 * beam).moved(x, 0.01))
    return parts


def _warship(draw: Draw, colour: Colour) -> list[Part]:
    grey = draw.grey(0.4, 0.7)
    beam, depth = draw.uniform(0.1, 0.15), draw.uniform(0.06, 0.09)
    parts = painted(grey, _hull(draw, beam, depth, stern=draw.uniform(0.6, 0.9), full=draw.uniform(1.2, 2.2)))
    if draw.chance(0.25):
        deck = [(-0.5, -0.9 * beam), (0.45, -0.6 * beam), (0.5, 0.5 * beam), (0.1, 1.1 * beam), (-0.5, 1.0 * beam)]
        parts += painted((0.3, 0.3, 0.32), prism(deck, "y", 0.0, 0.025))
        island = _tower(draw, grey, draw.uniform(-0.15, 0.1), 0.14, 0.04, 0.02, 3)
        return parts + [Part(part.surface.moved(z=0.75 * beam), part.colour) for part in island]
    parts += _tower(
        draw, grey, draw.uniform(-0.02, 0.1), draw.uniform(0.15, 0.28), 0.75 * beam, 0.0, draw.integer(2, 4)
    )
    parts += painted(
        grey, block((-0.14, 0.04, 0), (0.12, 0.08, 0.5 * beam)), rod((-0.13, 0, 0), (-0.15, 0.16, 0), 0.025)
    )
    for x in draw.choice((0.3, -0.33), (0.3, 0.22, -0.3), (0.3,)):
        height = 0.05 if x == 0.22 else 0.02
        turret = block((x, height, 0), (0.07, 0.05, 0.055))
        aim = 1 if x > 0 else -1
        barrels = both_sides(rod((x, height + 0.01, 0.012), (x + aim * 0.12, height + 0.025, 0.012), 0.006))
        parts += painted(grey, turret, *barrels)
    return parts + painted(grey, rod((0.02, 0.05, 0), (0.02, draw.uniform(0.22, 0.32), 0), 0.008))


def _tug(draw: Draw, colour: Colour) -> list[Part]:
    """Return a tug or fishing boat: short, deep, with a wheelhouse and a mast or a crane."""
    beam, depth = draw.uniform(0.3, 0.4), draw.uniform(0.15, 0.22)
    parts = painted(
        colour,
        _hull(
            draw, beam, depth, sheer=draw.uniform(0.3, 0.8), stern=draw.uniform(0.7, 0.95), full=draw.uniform(1.5, 3)
        ),
    )
    x, size = draw.uniform(-0.2, 0.2), draw.uniform(0.2, 0.3)
    house = draw.grey(0.8, 0.98)
    parts += painted(
        house, block((x, 0.08, 0), (size, 0.18, 0.6 * beam)), block((x, 0.22, 0), (0.7 * size, 0.12, 0.5 * beam))
    )
    parts += painted(_GLASS, block((x, 0.23, 0), (0.72 * size, 0.05, 0.52 * beam)))
    parts += painted(draw.paint(), rod((x - 0.7 * size, 0, 0), (x - 0.7 * size, draw.uniform(0.2, 0.36), 0), 0.045))
    mast_x = draw.choice(0.33, -0.38)
    parts += painted(draw.wood(), rod((mast_x, 0, 0), (mast_x, draw.uniform(0.3, 0.6), 0), 0.016))
    boom = (mast_x - math.copysign(0.25, mast_x), 0.35, 0.0)
    return parts + painted(draw.wood(), rod((mast_x, 0.12, 0), boom, 0.013))


def _submarine(draw: Draw, colour: Colour) -> list[Part]:
    dark, radius = draw.grey(0.12, 0.45), draw.uniform(0.05, 0.085)
    ring_P2 = outline(2 * radius, 2 * radius)
    stations = [(0.5, 0.12), (0.48, 0.5), (0.43, 0.85), (0.35, 1), (-0.2, 1), (-0.4, 0.5), (-0.5, 0.1)]
    parts = painted(dark, loft([[(x, y * size, z * size) for y, z in ring_P2] for x, size in stations]))
    x, height, length = draw.uniform(0.0, 0.22), draw.uniform(0.08, 0.14), draw.uniform(0.12, 0.2)
    sail_P2 = outline(length, 0.6 * radius, roundness=0.8)
    parts += painted(dark, prism(sail_P2, "y", 0.6 * radius, radius + height).moved(x=x))
    parts += painted((0.3, 0.3, 0.3), rod((x, radius, 0), (x, radius + height + draw.uniform(0.03, 0.1), 0), 0.009))
    parts += painted(
        dark,
        *both_sides(
            wing((x + 0.03, radius + 0.5 * height, 0), (x + 0.02, radius + 0.5 * height, 0.1), 0.07, 0.05, 0.15)
        ),
    )
    fins = [wing((-0.38, 0, 0), (-0.42, draw.uniform(0.11, 0.15) * side, 0), 0.1, 0.06, 0.15) for side in (-1, 1)]
    parts += painted(
        dark, *fins, *both_sides(wing((-0.38, 0, 0), (-0.42, 0, draw.uniform(0.11, 0.16)), 0.1, 0.06, 0.15))
    )
    return parts + painted((0.6, 0.5, 0.25), disc("x", 0.06, -0.52, -0.5))


def _catamaran(draw: Draw, colour: Colour) -> list[Part]:
    """Return two slender hulls under a deck, with a cabin or a sail."""
    spread, depth = draw.uniform(0.16, 0.26), draw.uniform(0.08, 0.13)
    hull = _hull(draw, 0.11, depth, stern=0.7, full=1.5)
    parts = painted(colour, *both_sides(hull.moved(z=spread)))
    parts += painted(draw.grey(0.7, 0.95), box((-0.4, -0.03, -spread), (0.2, 0.02, spread)))
    if draw.chance(0.5):
        parts += _tower(draw, draw.grey(0.85, 0.98), -0.12, 0.4, 1.5 * spread, 0.0, draw.integer(1, 3))
    else:
        height = draw.uniform(0.8, 1.2)
        parts += painted((0.7, 0.7, 0.7), rod((0.05, 0, 0), (0.05, height, 0), 0.012))
        parts += painted(draw.choice((0.95, 0.95, 0.92), draw.paint()), _sail((0.035, 0.08, 0), 0.4, 0.88 * height))
    return parts


def _tall_ship(draw: Draw, colour: Colour) -> list[Part]:
    """Return a square-rigged ship: raised stern, two or three masts with yards and sails, a bowsprit."""
    wood = draw.wood()
    beam, depth = draw.uniform(0.18, 0.24), draw.uniform(0.12, 0.17)
    parts = painted(wood, _hull(draw, beam, depth, sheer=0.4, stern=0.75, full=1.5))
    parts += painted(wood, box((-0.5, -0.02, -0.36 * beam), (-0.28, draw.uniform(0.05, 0.1), 0.36 * beam)))
    parts += painted(wood, rod((0.42, 0.03, 0), (0.68, 0.16, 0), 0.013))
    canvas, bare = draw.colour((0.09, 0.13), (0.05, 0.2), (0.85, 0.97)), draw.chance(0.25)
    masts = draw.choice((0.2, -0.15), (0.25, 0.0, -0.28))
    for x in masts:
        height = draw.uniform(0.5, 0.75)
        parts += painted(wood, rod((x, -0.02, 0), (x, height, 0), 0.014))
        y, width = 0.12, 1.6 * beam
        while y < height - 0.1:
            step = draw.uniform(0.15, 0.22)
            parts += painted(
                wood, rod((x + 0.015, y + step - 0.02, -width / 2), (x + 0.015, y + step - 0.02, width / 2), 0.008)
            )
            if not bare:
                sail = [(x + 0.02, y, -0.48 * width), (x + 0.06, y, 0), (x + 0.02, y, 0.48 * width), (x + 0.045, y, 0)]
                top = [
                    (px - (0.01 if i == 1 else 0.0), y + step - 0.03, 0.85 * pz) for i, (px, _, pz) in enumerate(sail)
                ]
                parts += painted(canvas, loft([sail, top]))
            y, width = y + step, 0.8 * width
    return parts

"""Displays, loudspeakers and telephones: slabs and boxes whose faces look towards +x."""

import math

import numpy as np

from hvd_r2n2.data.shapes.legs import four_legs
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
    revolved,
    rod,
    tube,
)

_BLACK = (0.06, 0.06, 0.07)


def display(draw: Draw) -> list[Part]:
    """Return a monitor, television or laptop that faces +x."""
    case = draw.grey(0.08, 0.35) if draw.chance(0.6) else draw.grey(0.6, 0.95)
    screen = draw.choice(
        (0.1, 0.11, 0.13), (0.15, 0.25, 0.45), (0.45, 0.55, 0.65), draw.colour((0.5, 0.7), (0.2, 0.8), (0.2, 0.8))
    )
    style = draw.choice("flat", "flat", "flat", "tube", "laptop", "curved")
    half_z = draw.uniform(0.4, 0.6)
    half_y = half_z * draw.choice(draw.uniform(0.5, 0.65), draw.uniform(0.65, 0.9))
    if style == "laptop":
        return _laptop(draw, case, screen, half_z, half_y)
    depth, bezel = draw.uniform(0.03, 0.1), draw.uniform(0.02, 0.07)
    lift = draw.uniform(0.06, 0.32)
    tilt = draw.uniform(-3, 12)
    middle = lift + half_y
    if style == "curved":
        sagitta = draw.uniform(0.05, 0.15)
        slab = [_arc(half_z, half_y, sagitta, -depth, 0), _arc(half_z - bezel, half_y - bezel, sagitta, -0.01, 0.012)]
        surfaces = painted(case, slab[0]) + painted(screen, slab[1])
    else:
        slab_ring = outline(2 * half_y, 2 * half_z, roundness=draw.choice(0.05, 0.05, 0.15, 0.3), num_points=24)
        surfaces = painted(case, prism(slab_ring, "x", -depth, 0))
        surfaces += painted(screen, block((0, 0, 0), (0.024, 2 * (half_y - bezel), 2 * (half_z - bezel))))
        if style == "tube" or draw.chance(0.3):
            bulge = draw.uniform(0.5, 0.9) if style == "tube" else draw.uniform(0.06, 0.15)
            scale = draw.uniform(0.35, 0.65) if style == "tube" else draw.uniform(0.6, 0.9)
            rings = [np.c_[np.full(24, x), s * slab_ring] for x, s in ((-depth, 0.95), (-depth - bulge, scale))]
            surfaces += painted(case, loft(rings))
    parts = [Part(part.surface.turned("z", tilt).moved(y=middle), part.colour) for part in surfaces]
    return parts + painted(case, *_stand(draw, style, half_z, half_y, lift, depth))


def _arc(half_z: float, half_y: float, sagitta: float, back: float, front: float) -> Surface:
    rings = []
    for z in np.linspace(-half_z, half_z, 13):
        x = sagitta * (z / half_z) ** 2
        rings.append([(x + back, -half_y, z), (x + front, -half_y, z), (x + front, half_y, z), (x + back, half_y, z)])
    return loft(rings)


def _stand(draw: Draw, style: str, half_z: float, half_y: float, lift: float, depth: float) -> list[Surface]:
    kind = draw.choice("plate", "plate", "oval", "feet", "arch", "none", "pillars")
    x = -depth - 0.03 if style != "tube" else -0.25
    if kind == "none":
        return []
    if kind == "feet":
        z, reach = draw.uniform(0.5, 0.85) * half_z, draw.uniform(0.1, 0.2)
        foot = prism([(-reach, 0), (reach, 0), (0.02, lift + 0.05), (-0.02, lift + 0.05)], "z", z - 0.02, z + 0.02)
        return list(both_sides(foot.moved(x=-depth / 2)))
    if kind == "arch":
        z = draw.uniform(0.3, 0.6) * half_z
        legs = both_sides(tube([(x + 0.1, 0.02, z), (x, 0.6 * lift, 0.8 * z), (x, lift + half_y / 2, 0.4 * z)], 0.025))
        return [*legs, rod((x + 0.1, 0.02, -z), (x + 0.1, 0.02, z), 0.022)]
    base_x, base_z = draw.uniform(0.12, 0.24), draw.uniform(0.2, 0.45)
    roundness = 1.0 if kind == "oval" else draw.choice(0.05, 0.3)
    base = prism(outline(2 * base_x, 2 * base_z, roundness=roundness, num_points=28), "y", 0, 0.03).moved(x=x + 0.03)
    neck_top = lift + draw.uniform(0.2, 0.9) * half_y
    if kind == "pillars":
        return [base, *both_sides(rod((x, 0.02, 0.5 * base_z), (x, neck_top, 0.5 * base_z), 0.03))]
    width = draw.uniform(0.04, 0.14)
    return [base, box((x - 0.03, 0.02, -width), (x + 0.03, neck_top, width))]


def _laptop(draw: Draw, case: Colour, screen: Colour, half_z: float, half_y: float) -> list[Part]:
    half_x, thickness = draw.uniform(0.9, 1.05) * half_y, draw.uniform(0.03, 0.07)
    lean = draw.uniform(0, 35)
    parts = painted(case, box((-half_x, 0, -half_z), (half_x, thickness, half_z)))
    keys = box((-0.75 * half_x, 0, -0.85 * half_z), (0.1 * half_x, thickness + 0.008, 0.85 * half_z))
    pad = box((0.3 * half_x, 0, -0.25 * half_z), (0.85 * half_x, thickness + 0.006, 0.25 * half_z))
    parts += painted(_BLACK, keys) + painted(draw.grey(0.4, 0.6), pad)
    lid = painted(case, box((-0.035, 0, -half_z), (0, 2 * half_y, half_z)))
    lid += painted(screen, box((-0.01, 0.1 * half_y, -0.93 * half_z), (0.008, 1.9 * half_y, 0.93 * half_z)))
    return parts + [Part(p.surface.turned("z", lean).moved(-half_x, thickness), p.colour) for p in lid]


def speaker(draw: Draw) -> list[Part]:
    """Return a loudspeaker whose drivers face +x: bookshelf, tower, soundbar, round, horn, or a pair of boxes."""
    case = draw.choice(draw.grey(0.05, 0.3), draw.wood(), draw.paint())
    half_z = draw.uniform(0.12, 0.3)
    half_x, height = half_z * draw.uniform(0.6, 1.6), half_z * draw.choice(draw.uniform(2, 4), draw.uniform(4, 9))
    style = draw.choice("box", "box", "box", "soundbar", "round", "wedge", "pair", "pod")
    if style == "soundbar":
        return _soundbar(draw, case)
    if style == "pod":
        radius, squash = draw.uniform(0.2, 0.35), draw.uniform(0.6, 1.5)
        parts = painted(case, ball(radius, squash * radius, radius).moved(y=squash * radius))
        parts += painted(_BLACK, disc("x", 0.5 * radius, 0.7 * radius, 0.96 * radius).moved(y=squash * radius))
        return parts + painted(case, disc("y", draw.uniform(0.3, 0.9) * radius, -0.06, 0.1 * radius))
    lift = draw.choice(0.0, 0.0, draw.uniform(0.04, 0.12))
    parts = painted(case, _speaker_body(draw, style, half_x, half_z, height).moved(y=lift))
    if lift:
        inset = 0.62 if style == "round" else 0.9
        parts += painted(_BLACK, *four_legs(draw, inset * half_x, inset * half_z, lift, 0.25 * half_z))
    if style == "round":
        top = lift + height
        parts += painted(_BLACK, disc("y", 0.6 * min(half_x, half_z), top, top + 0.1 * half_z))
    elif style != "wedge":
        parts += _speaker_additions(draw, half_x, half_z, lift, height)
        parts += _drivers(draw, half_x, half_z, lift, height)
    if style == "pair":
        spread = half_z * draw.uniform(1.3, 2.2)
        return [Part(part.surface.moved(z=z), part.colour) for part in parts for z in (-spread, spread)]
    if draw.chance(0.2):
        post, width = draw.uniform(0.3, 0.8) * height, draw.uniform(0.8, 1.2) * half_z
        foot = block((0, 0.02, 0), (2 * width, 0.04, 2 * width))
        parts = [Part(part.surface.moved(y=post), part.colour) for part in parts]
        parts += painted(_BLACK, rod((0, 0, 0), (0, post + lift, 0), 0.15 * half_z), foot)
    return parts


def _speaker_body(draw: Draw, style: str, half_x: float, half_z: float, height: float) -> Surface:
    if style == "round":
        ring_P2 = outline(2 * half_x, 2 * half_z, num_points=28)
        return prism(ring_P2, "y", 0, height, top_scale=draw.uniform(0.7, 1.0))
    if style == "wedge":
        profile = [(-half_x, 0), (half_x, 0), (draw.uniform(0.2, 0.9) * half_x, height), (-half_x, height)]
        return prism(profile, "z", -half_z, half_z)
    ring_P2 = outline(2 * half_x, 2 * half_z, roundness=draw.choice(0.05, 0.05, 0.2, 0.4), num_points=28)
    # A taper narrows the rear: the front stays upright under its drivers.
    taper = draw.choice(1.0, draw.uniform(0.45, 0.95))
    ring_P2[:, 1] *= np.where(ring_P2[:, 0] < 0, taper, 1.0)
    return prism(ring_P2, "y", 0, height)


def _speaker_additions(draw: Draw, half_x: float, half_z: float, lift: float, height: float) -> list[Part]:
    """Return a tweeter's pod on the top, a plinth below, both or neither."""
    parts: list[Part] = []
    if draw.chance(0.25):
        size = draw.uniform(0.3, 0.6) * half_z
        pod = ball(1.4 * size, 0.8 * size, size).moved(draw.uniform(-0.4, 0.4) * half_x, lift + height + 0.5 * size)
        parts += painted(draw.grey(0.15, 0.6), pod)
    if draw.chance(0.25):
        plinth, spread = draw.uniform(0.04, 0.12), draw.uniform(1.1, 1.5)
        x, z = spread * half_x, spread * half_z
        parts += painted(_BLACK, box((-x, -plinth, -z), (x, 0.01, z)))
    return parts


def _soundbar(draw: Draw, case: Colour) -> list[Part]:
    """Return a long low loudspeaker: square or rounded, on feet or not, with a subwoofer beside it or not."""
    half_x, half_y, half_z = draw.uniform(0.06, 0.18), draw.uniform(0.05, 0.14), draw.uniform(0.45, 0.8)
    ring_P2 = outline(2 * half_x, 2 * half_y, roundness=draw.choice(0.05, 0.05, 0.4, 1.0), num_points=24)
    parts = painted(case, prism(ring_P2, "z", -half_z, half_z))
    if draw.chance(0.4):
        waist, middle = draw.uniform(0.5, 0.85), draw.uniform(0.2, 0.8) * half_z
        rings = [
            np.c_[size * ring_P2, np.full(24, z)]
            for z, size in ((-half_z, waist), (-middle, 1), (middle, 1), (half_z, waist))
        ]
        parts = painted(case, loft(rings))
    for z in np.linspace(-0.8, 0.8, draw.integer(2, 6)):
        parts += _driver(draw, 0.97 * half_x, 0.0, float(z) * half_z, 0.7 * half_y)
    if draw.chance(0.4):
        drop, z = draw.uniform(0.03, 0.1), draw.uniform(0.4, 0.9) * half_z
        foot = box((-0.8 * half_x, -half_y - drop, z - 0.05), (0.8 * half_x, 0, z + 0.05))
        parts += painted(_BLACK, *both_sides(foot))
    if draw.chance(0.35):
        size, side = draw.uniform(0.12, 0.22), draw.choice(-1.0, 1.0)
        subwoofer = box(
            (-size, -half_y, half_z + 0.08), (size, -half_y + draw.uniform(0.3, 0.5), half_z + 0.08 + 1.6 * size)
        )
        parts += painted(case, subwoofer.scaled(z=side))
    return parts


def _drivers(draw: Draw, x: float, half_z: float, low: float, height: float) -> list[Part]:
    if draw.chance(0.2):
        grille = block((x, low + height / 2, 0), (0.06 * half_z, 0.92 * height, 1.85 * half_z))
        return painted(draw.grey(0.1, 0.4), grille)
    parts, y = [], low + 0.08 * height
    for _ in range(draw.integer(1, 4)):
        radius = draw.uniform(0.4, 0.88) * half_z
        if y + 2 * radius > low + 0.97 * height:
            break
        parts += _driver(draw, x, y + radius, 0.0, radius)
        y += 2.15 * radius
    if not parts or low + height - y > 0.35 * half_z:
        parts += _driver(draw, x, low + height - 0.3 * half_z, 0.0, 0.22 * half_z)
    return parts


def _driver(draw: Draw, x: float, y: float, z: float, radius: float) -> list[Part]:
    """Return a ring, a cone and a dust cap, a little proud of a face at x."""
    ring = revolved([(radius, 0), (radius, 0.1), (0.86 * radius, 0.1), (0.86 * radius, 0)], closed=True)
    cone = revolved([(0.88 * radius, 0), (0.88 * radius, 0.01), (0.01, 0.005)])
    cap = ball(0.3 * radius, 0.12 * radius, 0.3 * radius)
    ring, cone, cap = ring.scaled(y=radius), cone.scaled(y=radius), cap
    facing = [surface.turned("z", -90).moved(x, y, z) for surface in (ring, cone, cap)]
    return painted(draw.grey(0.3, 0.7), facing[0]) + painted(_BLACK, facing[1]) + painted((0.25, 0.25, 0.27), facing[2])


def telephone(draw: Draw) -> list[Part]:
    """Return a mobile telephone standing upright with its face towards +x, or a desk telephone with its receiver."""
    style = draw.choice("smartphone", "keypad", "keypad", "flip", "slider", "desk", "desk", "cordless")
    case = draw.grey(0.05, 0.4) if draw.chance(0.55) else draw.paint()
    if style == "desk":
        return _desk_telephone(draw, case)
    half_y = 0.5
    half_z, half_x = draw.uniform(0.18, 0.34), draw.uniform(0.025, 0.1)
    if style in ("keypad", "cordless"):
        half_z, half_x = draw.uniform(0.13, 0.26), draw.uniform(0.05, 0.15)
    ring_P2 = outline(2 * half_y, 2 * half_z, roundness=draw.choice(0.1, 0.2, 0.35, 0.5), num_points=32)
    # Narrower towards the top or the bottom, or waisted.
    ring_P2[:, 1] *= 1 + draw.uniform(-0.3, 0.3) * ring_P2[:, 0] + draw.uniform(-0.2, 0.8) * (ring_P2[:, 0] ** 2 - 0.1)
    body = painted(case, prism(ring_P2, "x", -half_x, half_x))
    face = half_x + 0.008
    if style == "smartphone":
        parts = body + painted(_BLACK, box((0, -0.82 * half_y, -0.88 * half_z), (face, 0.82 * half_y, 0.88 * half_z)))
        parts += painted(draw.grey(), disc("x", 0.1 * half_z, 0, face, num_sides=12).moved(y=-0.91 * half_y))
        return _on_stand(draw, parts, half_x, half_z) if draw.chance(0.5) else parts
    if style == "flip":
        return _flip_telephone(draw, case, half_z, half_x)
    split = draw.uniform(-0.1, 0.2) * half_y
    if style == "slider":
        upper = prism(0.98 * ring_P2, "x", half_x, 2.2 * half_x).moved(y=draw.uniform(0.2, 0.5))
        parts = body + painted(draw.paint(), upper)
        screen = block((2.2 * half_x, half_y * 0.75, 0), (0.02, 0.6 * half_y, 1.6 * half_z))
        return parts + painted((0.3, 0.4, 0.5), screen) + _keys(draw, half_z, -0.9 * half_y, -0.1 * half_y, half_x)
    screen = box((0, split + 0.1 * half_y, -0.8 * half_z), (face, 0.82 * half_y, 0.8 * half_z))
    parts = body + painted(draw.choice((0.35, 0.45, 0.4), (0.2, 0.3, 0.5), _BLACK), screen)
    parts += _keys(draw, half_z, -0.88 * half_y, split, half_x)
    if draw.chance(0.45):
        side, length = draw.choice(-1, 1), draw.uniform(0.1, 0.45)
        parts += painted(
            _BLACK, rod((0, 0.4, side * 0.7 * half_z), (0, 0.5 + length, side * 0.7 * half_z), 0.3 * half_x + 0.012)
        )
    if style == "cordless":
        depth = draw.uniform(0.15, 0.3)
        cradle = box((-depth, -0.62, -1.3 * half_z), (depth, draw.uniform(-0.48, -0.3), 1.3 * half_z))
        parts += painted(draw.grey(0.1, 0.9), cradle)
    return parts


def _on_stand(draw: Draw, parts: list[Part], half_x: float, half_z: float) -> list[Part]:
    """Return the telephone leant back on a desk stand, with a foot, a ledge and a rest."""
    lean, foot = draw.uniform(5, 35), draw.uniform(0.12, 0.35)
    width, ledge = draw.uniform(0.5, 1.4) * half_z, draw.uniform(0.02, 0.08)
    leant = [Part(part.surface.turned("z", lean, (0, -0.5, 0)), part.colour) for part in parts]
    rest_y = draw.uniform(-0.2, 0.2)
    rest_x = -math.tan(math.radians(lean)) * (rest_y + 0.5) - half_x
    surfaces = [
        box((-foot - 0.1, -0.5 - 2 * ledge, -width), (foot, -0.5 - ledge, width)),
        box((half_x, -0.5 - ledge, -width), (half_x + 0.05, -0.5 + ledge, width)),
        box((-half_x, -0.5 - ledge, -width), (half_x + 0.05, -0.5, width)),
        rod((-foot, -0.5 - ledge, 0), (rest_x, rest_y, 0), draw.uniform(0.025, 0.06)),
    ]
    return leant + painted(draw.grey(), *surfaces)


def _keys(draw: Draw, half_z: float, low: float, high: float, face: float) -> list[Part]:
    rows, colour = draw.integer(3, 5), draw.grey(0.5, 0.95)
    size = (0.02 + face, 0.6 * (high - low) / rows, 0.42 * half_z)
    places = [(low + (row + 0.5) * (high - low) / rows, z) for row in range(rows) for z in (-0.55, 0.0, 0.55)]
    return painted(colour, *(block((face / 2 + 0.01, y, z * half_z), size) for y, z in places))


def _flip_telephone(draw: Draw, case: Colour, half_z: float, half_x: float) -> list[Part]:
    """Return a folding telephone, open by some angle."""
    length, opening = draw.uniform(0.45, 0.55), draw.uniform(10, 60)
    lower = painted(case, box((-half_x, -length, -half_z), (0, 0, half_z)))
    lower += _keys(draw, half_z, -0.9 * length, -0.15 * length, 0.0)
    lid = painted(case, box((-half_x, 0, -half_z), (0, length, half_z)))
    lid += painted((0.2, 0.3, 0.45), box((-0.01, 0.2 * length, -0.8 * half_z), (0.008, 0.9 * length, 0.8 * half_z)))
    hinge = painted(draw.grey(0.2, 0.6), disc("z", 0.7 * half_x, -half_z, half_z, num_sides=12))
    return lower + hinge + [Part(p.surface.turned("z", -opening), p.colour) for p in lid]


def _desk_telephone(draw: Draw, case: Colour) -> list[Part]:
    half_x, half_z = draw.uniform(0.3, 0.42), draw.uniform(0.26, 0.42)
    rear, front = draw.uniform(0.18, 0.35), draw.uniform(0.05, 0.15)
    slope = math.degrees(math.atan2(rear - front, 2 * half_x))
    profile = [(-half_x, 0), (half_x, 0), (half_x, front), (-0.6 * half_x, rear), (-half_x, rear)]
    parts = painted(case, prism(profile, "z", -half_z, half_z))
    deck_y = (rear + front) / 2
    if draw.chance(0.35):
        dial = [disc("y", 0.5 * half_z, -0.03, 0.03, num_sides=28), disc("y", 0.2 * half_z, 0, 0.04)]
        colours = (draw.grey(0.6, 0.95), _BLACK)
        placed = [surface.turned("z", -slope).moved(x=0.15 * half_x, y=deck_y) for surface in dial]
        parts += painted(colours[0], placed[0]) + painted(colours[1], placed[1])
        across, z0 = True, 0.0
    else:
        keys = [
            block((x * half_x, 0.01, z * half_z), (0.16 * half_x, 0.05, 0.16 * half_z))
            for x in (-0.1, 0.2, 0.5)
            for z in (0.1, 0.4, 0.7)
        ]
        parts += painted(draw.grey(0.6, 0.95), *(key.turned("z", -slope).moved(y=deck_y) for key in keys))
        across, z0 = draw.chance(0.4), -0.62 * half_z
    length, radius = draw.uniform(0.3, 0.4), draw.uniform(0.045, 0.07)
    receiver: list[Surface] = [tube([(0, 0.1, -length), (0, 0.15, 0), (0, 0.1, length)], radius)]
    receiver += both_sides(disc("y", 1.7 * radius, 0, 0.13).moved(z=length))
    for surface in receiver:
        if across:
            parts += painted(case, surface.moved(-0.7 * half_x, rear))
        else:
            parts += painted(case, surface.turned("y", 90).turned("z", -slope).moved(0, deck_y, z0))
    return parts

"""Aeroplanes: airliners, business jets, propeller planes, biplanes, fighters, gliders and flying wings."""

from collections.abc import Sequence

from hvd_r2n2.data.shapes.parts import (
    Colour,
    Draw,
    Part,
    Surface,
    ball,
    block,
    both_sides,
    disc,
    loft,
    outline,
    painted,
    revolved,
    rod,
    wing,
)

_GLASS = (0.12, 0.16, 0.22)


def aeroplane(draw: Draw) -> list[Part]:
    """Return an aeroplane whose nose points to +x; its length is about 1."""
    style = draw.choice(
        _airliner,
        _airliner,
        _airliner,
        _business_jet,
        _propeller_plane,
        _biplane,
        _fighter,
        _fighter,
        _glider,
        _bomber,
        _flying_wing,
    )
    body = draw.grey(0.55, 0.98) if draw.chance(0.6) else draw.paint()
    trim = body if draw.chance(0.3) else draw.paint()
    return style(draw, body, trim)


def _fuselage(radius: float, height: float, stations: Sequence[tuple[float, float, float]]) -> Surface:
    """Return a body of elliptic sections: stations are (x, size, lift), size and lift as fractions of `radius`."""
    ring_P2 = outline(2 * radius, 2 * radius, num_points=20)
    rings = []
    for x, size, lift in stations:
        rings.append([(x, y * size * height + lift * radius, z * size) for y, z in ring_P2])
    return loft(rings)


def _tail(draw: Draw, x: float, y: float, height: float, span: float, chord: float) -> list[Surface]:
    """Return a fin and two tailplanes: low, half-way up, or on the fin's top (a T)."""
    sweep = draw.uniform(0.2, 0.9) * height
    fin = wing((x, y, 0), (x - sweep, y + height, 0), chord, draw.uniform(0.35, 0.7) * chord, 0.1)
    place = draw.choice(0.0, 0.0, 0.3, 1.0)
    root = (x - place * sweep - 0.05 * chord, y + place * height * 0.97, 0.0)
    tip = (root[0] - draw.uniform(0.2, 0.6) * span, root[1] + draw.uniform(-0.05, 0.15) * span, span)
    return [fin, *both_sides(wing(root, tip, 0.8 * chord, 0.45 * chord, 0.1))]


def _engine(radius: float, length: float) -> tuple[Surface, Surface]:
    """Return a nacelle along x, its intake at x = 0, and the dark fan within."""
    profile = [(0.85, 0), (1.0, -0.15), (1.0, -0.5), (0.6, -1.0), (0.4, -1.0), (0.75, -0.06)]
    shell = revolved([(r * radius, y * length) for r, y in profile], closed=True, num_sides=16).turned("z", -90)
    return shell, disc("x", 0.8 * radius, -0.7 * length, -0.06 * length, num_sides=16)


def _airliner(draw: Draw, body: Colour, trim: Colour) -> list[Part]:
    radius = draw.uniform(0.045, 0.075)
    stations = [
        (0.5, 0.08, -0.2),
        (0.48, 0.4, -0.15),
        (0.44, 0.75, -0.05),
        (0.38, 1, 0),
        (-0.2, 1, 0),
        (-0.36, 0.7, 0.25),
        (-0.5, 0.12, 0.6),
    ]
    parts = painted(body, _fuselage(radius, 1.0, stations))
    high = draw.chance(0.2)
    y = 0.7 * radius if high else -0.5 * radius
    span, sweep = draw.uniform(0.38, 0.56), draw.uniform(0.14, 0.36)
    chord, lift = draw.uniform(0.18, 0.26), draw.uniform(-0.02, 0.12) * (0.3 if high else 1.0)
    root_x = draw.uniform(0.08, 0.16)
    tip = (root_x - sweep, y + lift * span, span)
    parts += painted(
        body if draw.chance(0.6) else (0.75, 0.76, 0.78),
        *both_sides(wing((root_x, y, 0), tip, chord, draw.uniform(0.25, 0.5) * chord, 0.13)),
    )
    if draw.chance(0.3):
        parts += painted(trim, *both_sides(wing(tip, (tip[0] - 0.03, tip[1] + 0.06, tip[2] + 0.01), 0.06, 0.03, 0.1)))
    parts += painted(
        trim,
        *_tail(draw, -0.34, 0.6 * radius, draw.uniform(0.14, 0.22), draw.uniform(0.14, 0.22), draw.uniform(0.12, 0.17)),
    )
    places = [0.33] if draw.chance(0.7) else [0.28, 0.6]
    size, length = draw.uniform(0.024, 0.04), draw.uniform(0.1, 0.15)
    for place in places:
        x = root_x - place * sweep + 0.06
        drop = y + place * lift * span - 1.3 * size
        shell, fan = (surface.moved(x, drop, place * span) for surface in _engine(size, length))
        parts += painted(trim if draw.chance(0.4) else body, *both_sides(shell)) + painted(_GLASS, *both_sides(fan))
    return parts + painted(_GLASS, block((0.445, 0.35 * radius, 0), (0.03, 0.3 * radius, 1.2 * radius)))


def _business_jet(draw: Draw, body: Colour, trim: Colour) -> list[Part]:
    radius = draw.uniform(0.05, 0.08)
    stations = [(0.5, 0.05, -0.2), (0.42, 0.55, -0.1), (0.3, 1, 0), (-0.15, 1, 0), (-0.5, 0.15, 0.4)]
    parts = painted(body, _fuselage(radius, 1.1, stations))
    span, sweep = draw.uniform(0.32, 0.5), draw.uniform(0.1, 0.25)
    parts += painted(
        body, *both_sides(wing((0.05, -0.7 * radius, 0), (0.05 - sweep, -0.7 * radius + 0.03, span), 0.2, 0.07, 0.13))
    )
    fin_y, height = 0.6 * radius, draw.uniform(0.16, 0.24)
    parts += painted(trim, wing((-0.28, fin_y, 0), (-0.42, fin_y + height, 0), 0.18, 0.1, 0.1))
    plane = wing((-0.42, fin_y + height, 0), (-0.5, fin_y + height, draw.uniform(0.13, 0.2)), 0.1, 0.05, 0.1)
    parts += painted(trim, *both_sides(plane))
    size = draw.uniform(0.03, 0.045)
    shell, fan = (
        surface.moved(-0.17, 0.5 * radius, radius + 1.1 * size) for surface in _engine(size, draw.uniform(0.14, 0.2))
    )
    parts += painted(trim, *both_sides(shell)) + painted(_GLASS, *both_sides(fan))
    return parts + painted(_GLASS, ball(0.06, 0.5 * radius, 0.75 * radius).moved(0.36, 0.7 * radius))


def _propeller(draw: Draw, x: float, y: float, z: float, radius: float) -> list[Part]:
    blades = draw.choice(2, 3, 4)
    turn = draw.uniform(0, 180)
    hub = ball(0.05, 0.2 * radius, 0.2 * radius).moved(x, y, z)
    surfaces = [
        block((x, y + radius / 2, z), (0.012, radius, 0.02)).turned("x", turn + 360 * i / blades, (x, y, z))
        for i in range(blades)
    ]
    return painted((0.15, 0.15, 0.16), *surfaces) + painted(draw.grey(0.3, 0.9), hub)


def _wheels(draw: Draw, x: float, z: float, low: float, radius: float) -> list[Part]:
    """Return a fixed undercarriage: two main wheels on struts and one at the nose or tail."""
    third = draw.choice(0.36, -0.38)
    wheels = [
        *both_sides(disc("z", radius, -0.35 * radius, 0.35 * radius).moved(x, low, z)),
        disc("z", 0.8 * radius, -0.012, 0.012).moved(third, low),
    ]
    struts = [*both_sides(rod((x, low, z), (x, 0, 0.3 * z), 0.008)), rod((third, low, 0), (third, 0, 0), 0.008)]
    return painted((0.1, 0.1, 0.1), *wheels) + painted((0.6, 0.6, 0.62), *struts)


def _propeller_plane(draw: Draw, body: Colour, trim: Colour) -> list[Part]:
    """Return a light aircraft: high wing on struts or low wing, one engine in the nose."""
    radius, deep = draw.uniform(0.06, 0.085), draw.uniform(1.1, 1.4)
    stations = [(0.45, 0.5, -0.1), (0.3, 0.85, 0), (0.18, 1, 0.1), (-0.05, 1, 0.1), (-0.5, 0.15, 0.3)]
    parts = painted(body, _fuselage(radius, deep, stations))
    high = draw.chance(0.55)
    y = 1.2 * radius if high else -0.8 * radius
    span, chord = draw.uniform(0.45, 0.65), draw.uniform(0.14, 0.2)
    tip = (0.16 - draw.uniform(0, 0.05), y + draw.uniform(0, 0.06), span)
    parts += painted(trim, *both_sides(wing((0.18, y, 0), tip, chord, draw.uniform(0.5, 1.0) * chord, 0.13)))
    if high:
        parts += painted(body, *both_sides(rod((0.1, -0.8 * radius, 0.5 * radius), (0.1, y, 0.5 * span), 0.009)))
    parts += painted(_GLASS, ball(0.14, 0.75 * radius, 0.75 * radius).moved(0.08, radius))
    parts += painted(trim, *_tail(draw, -0.36, 0.3 * radius, draw.uniform(0.12, 0.18), draw.uniform(0.15, 0.22), 0.13))
    parts += _wheels(draw, 0.15, 0.14, -2.1 * radius, 0.03)
    return parts + _propeller(draw, 0.47, -0.1 * radius, 0.0, draw.uniform(0.12, 0.17))


def _biplane(draw: Draw, body: Colour, trim: Colour) -> list[Part]:
    radius = draw.uniform(0.055, 0.075)
    stations = [(0.42, 0.7, 0), (0.38, 1, 0), (0.05, 1, 0), (-0.5, 0.12, 0.3)]
    parts = painted(body, _fuselage(radius, 1.1, stations))
    span, chord, gap = draw.uniform(0.38, 0.55), draw.uniform(0.13, 0.18), draw.uniform(0.16, 0.24)
    low, stagger = -0.7 * radius, draw.uniform(-0.02, 0.08)
    lower = wing((0.22, low, 0), (0.22, low + 0.02, 0.95 * span), chord, chord, 0.1)
    upper = wing((0.22 + stagger, low + gap, 0), (0.22 + stagger, low + gap + 0.01, span), chord, chord, 0.1)
    parts += painted(trim, *both_sides(lower), *both_sides(upper))
    struts = [
        rod((x, low, z), (x + stagger, low + gap, z), 0.008) for x in (0.2, 0.12) for z in (0.2 * span, 0.75 * span)
    ]
    parts += painted((0.3, 0.25, 0.2), *(side for strut in struts for side in both_sides(strut)))
    parts += painted(trim, *_tail(draw, -0.37, 0.2 * radius, draw.uniform(0.1, 0.16), draw.uniform(0.14, 0.2), 0.12))
    parts += painted(_GLASS, ball(0.05, 0.03, 0.04).moved(0.02, 1.1 * radius))
    parts += _wheels(draw, 0.24, 0.1, -2.4 * radius, 0.04)
    return parts + _propeller(draw, 0.44, 0.0, 0.0, draw.uniform(0.13, 0.18))


def _fighter(draw: Draw, body: Colour, trim: Colour) -> list[Part]:
    """Return a fighter jet: a needle nose, swept or delta wings, one or two fins."""
    radius = draw.uniform(0.045, 0.07)
    stations = [(0.5, 0.03, 0), (0.36, 0.55, 0), (0.2, 0.85, 0.1), (-0.1, 1.15, 0), (-0.42, 0.9, 0), (-0.45, 0.7, 0)]
    parts = painted(body, _fuselage(radius, 0.9, stations))
    parts += painted(_GLASS, ball(0.1, 0.75 * radius, 0.55 * radius).moved(0.24, 0.7 * radius))
    span, sweep, chord = draw.uniform(0.24, 0.42), draw.uniform(0.16, 0.4), draw.uniform(0.26, 0.5)
    root_x = min(0.18, chord - 0.35 + draw.uniform(0, 0.1))
    parts += painted(
        body,
        *both_sides(
            wing(
                (root_x, 0, 0),
                (root_x - sweep, draw.uniform(-0.03, 0.03), span),
                chord,
                draw.uniform(0.1, 0.35) * chord,
                0.06,
            )
        ),
    )
    if draw.chance(0.7):
        parts += painted(trim, *both_sides(wing((-0.33, 0, 0), (-0.44, 0, draw.uniform(0.14, 0.22)), 0.13, 0.06, 0.07)))
    elif draw.chance(0.8):
        parts += painted(trim, *both_sides(wing((0.25, 0.5 * radius, 0), (0.17, 0.5 * radius, 0.14), 0.09, 0.04, 0.08)))
    height = draw.uniform(0.1, 0.18)
    fins: tuple[Surface, ...]
    if draw.chance(0.5):
        lean = draw.uniform(0, 0.08)
        fins = both_sides(
            wing(
                (-0.26, 0.6 * radius, 0.9 * radius),
                (-0.38, 0.6 * radius + height, 0.9 * radius + lean),
                0.15,
                0.07,
                0.08,
            )
        )
    else:
        fins = (wing((-0.24, 0.6 * radius, 0), (-0.4, 0.6 * radius + height, 0), 0.19, 0.08, 0.08),)
    nozzles = disc("x", 0.45 * radius, -0.5, -0.4, num_sides=14).moved(z=0.5 * radius)
    parts += painted(trim, *fins) + painted((0.2, 0.2, 0.2), *both_sides(nozzles))
    if draw.chance(0.6):
        missile = ball(0.1, 0.015, 0.015).moved(root_x - 0.7 * sweep - 0.05, -0.035, 0.7 * span)
        parts += painted((0.85, 0.85, 0.85), *both_sides(missile))
    return parts


def _glider(draw: Draw, body: Colour, trim: Colour) -> list[Part]:
    radius = draw.uniform(0.035, 0.05)
    stations = [
        (0.36, 0.1, -0.2),
        (0.3, 0.7, 0),
        (0.18, 1, 0.1),
        (0.0, 0.7, 0.2),
        (-0.15, 0.35, 0.3),
        (-0.4, 0.25, 0.3),
    ]
    parts = painted(body, _fuselage(radius, 1.2, stations))
    span = draw.uniform(0.55, 0.85)
    tip = (0.06, 0.7 * radius + draw.uniform(0.02, 0.1), span)
    parts += painted(body, *both_sides(wing((0.1, 0.7 * radius, 0), tip, draw.uniform(0.09, 0.13), 0.045, 0.14)))
    parts += painted(trim, *_tail(draw, -0.31, 0.4 * radius, draw.uniform(0.1, 0.15), draw.uniform(0.12, 0.17), 0.09))
    return parts + painted(_GLASS, ball(0.1, 0.7 * radius, 0.7 * radius).moved(0.2, 0.75 * radius))


def _bomber(draw: Draw, body: Colour, trim: Colour) -> list[Part]:
    """Return a plane with two or four propeller engines on straight wings and one or two fins."""
    radius = draw.uniform(0.05, 0.07)
    stations = [(0.42, 0.3, 0), (0.38, 0.75, 0), (0.25, 1, 0), (-0.1, 0.95, 0.05), (-0.48, 0.2, 0.3)]
    parts = painted(body, _fuselage(radius, 1.1, stations))
    span, y = draw.uniform(0.5, 0.7), draw.uniform(-0.4, 0.8) * radius
    chord = draw.uniform(0.18, 0.24)
    parts += painted(body, *both_sides(wing((0.2, y, 0), (0.14, y + 0.04, span), chord, 0.45 * chord, 0.14)))
    for place in (0.32,) if draw.chance(0.5) else (0.25, 0.52):
        pod = ball(0.13, 0.038, 0.038).moved(0.18, y, place * span)
        parts += painted(trim, *both_sides(pod))
        for z in (-place, place):
            parts += _propeller(draw, 0.31, y, z * span, draw.uniform(0.08, 0.1))
    if draw.chance(0.4):
        half = draw.uniform(0.13, 0.18)
        plane = wing((-0.34, 0.5 * radius, 0), (-0.35, 0.5 * radius, half), 0.12, 0.1, 0.1)
        fin = wing((-0.33, 0.2 * radius - 0.05, half), (-0.35, 0.2 * radius + 0.13, half), 0.13, 0.08, 0.1)
        parts += painted(trim, *both_sides(plane), *both_sides(fin))
    else:
        parts += painted(
            trim, *_tail(draw, -0.33, 0.4 * radius, draw.uniform(0.15, 0.2), draw.uniform(0.17, 0.23), 0.15)
        )
    return parts + painted(_GLASS, block((0.3, radius, 0), (0.08, 0.5 * radius, radius)))


def _flying_wing(draw: Draw, body: Colour, trim: Colour) -> list[Part]:
    span, sweep = draw.uniform(0.45, 0.65), draw.uniform(0.2, 0.45)
    chord = draw.uniform(0.35, 0.55)
    root = (0.3, 0.0, 0.0)
    parts = painted(
        body,
        *both_sides(
            wing(root, (0.3 - sweep, draw.uniform(0, 0.05), span), chord, draw.uniform(0.15, 0.4) * chord, 0.11)
        ),
    )
    hump = draw.uniform(0.05, 0.08)
    parts += painted(body, ball(0.42 * chord + 0.06, hump, 1.6 * hump).moved(0.3 - 0.4 * chord, 0.01))
    parts += painted(_GLASS, ball(0.06, 0.45 * hump, 0.8 * hump).moved(0.3 - 0.2 * chord, 0.7 * hump))
    if draw.chance(0.5):
        z = draw.uniform(0.2, 0.95) * span
        x = 0.3 - sweep * z / span - 0.08
        parts += painted(trim, *both_sides(wing((x, 0, z), (x - 0.06, draw.uniform(0.08, 0.16), z), 0.12, 0.06, 0.1)))
    intake = block((0.3 - 0.35 * chord, 0.6 * hump, 2.2 * hump), (0.14, 0.7 * hump, hump))
    return parts + painted((0.2, 0.2, 0.22), *both_sides(intake))

"""Cars: saloons, hatchbacks, estates, sports cars, convertibles, off-roaders, pickups, vans, buses and lorries."""

from collections.abc import Sequence

from hvd_r2n2.data.shapes.parts import (
    Colour,
    Draw,
    Part,
    Surface,
    block,
    both_sides,
    box,
    disc,
    loft,
    outline,
    painted,
    revolved,
)

_GLASS, _TYRE, _LIGHT, _REAR_LIGHT = (0.1, 0.13, 0.17), (0.07, 0.07, 0.07), (0.95, 0.95, 0.88), (0.7, 0.08, 0.06)


def car(draw: Draw) -> list[Part]:
    """Return a car whose bonnet points to +x; its length is about 1."""
    colour = draw.grey(0.1, 0.97) if draw.chance(0.4) else draw.colour((0, 1), (0.5, 0.95), (0.35, 0.95))
    style = draw.choice(
        "saloon", "hatchback", "estate", "sports", "convertible", "off-roader", "pickup", "van", "bus", "lorry"
    )
    half_z, wheel = draw.uniform(0.165, 0.225), draw.uniform(0.058, 0.084)
    if style in ("off-roader", "pickup"):
        wheel *= 1.2
    clearance = wheel * (
        draw.uniform(0.5, 0.8) if style in ("sports", "convertible", "saloon") else draw.uniform(0.7, 1.1)
    )
    front, rear = draw.uniform(0.27, 0.34), draw.uniform(0.27, 0.34)
    build = {"pickup": _pickup, "van": _van, "bus": _bus, "lorry": _lorry}.get(style)
    if build:
        parts = build(draw, colour, half_z, clearance)
    else:
        parts = _passenger_car(draw, style, colour, half_z, clearance)
    parts += _wheels(draw, (front, -rear), half_z, wheel)
    return parts + _lights(half_z, clearance + draw.uniform(0.08, 0.12))


def _body(stations: Sequence[tuple[float, float, float]], low: float, half_z: float, tuck: float = 0.97) -> Surface:
    """Return a body of rounded sections: stations are (x, top, width as a fraction of `half_z`)."""
    rings = []
    for x, top, width in stations:
        ring_P2 = outline(1.0, 1.0, roundness=0.22, num_points=20)
        rings.append(
            [(x, low + (y + 0.5) * (top - low), 2 * z * half_z * width * (tuck if y > 0 else 1.0)) for y, z in ring_P2]
        )
    return loft(rings)


def _cabin(low: float, high: float, half_z: float, places: tuple[float, float, float, float]) -> list[Surface]:
    """Return glass below and a roof above; places are x of rear foot, roof rear, roof front, windscreen foot."""
    rear, roof_rear, roof_front, foot = places
    lean = 0.82
    rings = []
    for x0, x1, y, z in ((rear, foot, low, half_z), (roof_rear, roof_front, high, half_z * lean)):
        rings.append([(x0, y, -z), (x1, y, -z), (x1, y, z), (x0, y, z)])
    glass = loft(rings)
    z = half_z * lean
    roof = loft(
        [
            [
                (roof_rear - 0.015, high - 0.012, -z - 0.006),
                (roof_front + 0.015, high - 0.012, -z - 0.006),
                (roof_front + 0.015, high - 0.012, z + 0.006),
                (roof_rear - 0.015, high - 0.012, z + 0.006),
            ],
            [
                (roof_rear + 0.02, high + 0.015, -0.85 * z),
                (roof_front - 0.02, high + 0.015, -0.85 * z),
                (roof_front - 0.02, high + 0.015, 0.85 * z),
                (roof_rear + 0.02, high + 0.015, 0.85 * z),
            ],
        ]
    )
    return [glass, roof]


def _passenger_car(draw: Draw, style: str, colour: Colour, half_z: float, low: float) -> list[Part]:
    tall = {"sports": 0.84, "convertible": 0.9, "off-roader": 1.25}.get(style, 1.0) * draw.uniform(0.82, 1.2)
    bonnet = low + tall * draw.uniform(0.12, 0.16)
    belt, nose = bonnet + draw.uniform(0.005, 0.03), bonnet - draw.uniform(0.02, 0.06)
    roof = belt + tall * draw.uniform(0.09, 0.13)
    boot = belt - draw.uniform(0.0, 0.03)
    stations = [
        (0.5, nose - 0.02, 0.8),
        (0.47, nose, 0.93),
        (0.3, bonnet, 1),
        (0.12, belt, 1),
        (-0.3, belt, 1),
        (-0.46, boot, 0.95),
        (-0.5, boot - 0.03, 0.85),
    ]
    parts = painted(colour, _body(stations, low, half_z))
    foot = draw.uniform(0.12, 0.24)
    roof_front = foot - draw.uniform(0.1, 0.18)
    if style == "convertible":
        return parts + _open_top(draw, half_z, belt, roof, foot)
    rear, roof_rear = {
        "saloon": (draw.uniform(-0.4, -0.3), draw.uniform(-0.24, -0.14)),
        "hatchback": (draw.uniform(-0.49, -0.44), draw.uniform(-0.38, -0.26)),
        "estate": (-0.485, draw.uniform(-0.46, -0.42)),
        "sports": (draw.uniform(-0.46, -0.34), draw.uniform(-0.18, -0.08)),
        "off-roader": (-0.485, draw.uniform(-0.475, -0.43)),
    }[style]
    glass, top = _cabin(belt - 0.02, roof, 0.93 * half_z, (rear, roof_rear, roof_front, foot))
    parts += painted(_GLASS, glass) + painted(colour, top)
    pillar = block((0, 0, 0), (0.025, roof - belt + 0.02, 1.78 * half_z)).moved(
        (roof_rear + roof_front) / 2, (roof + belt) / 2
    )
    parts += painted(colour, pillar)
    mirror = block((foot - 0.06, belt + 0.02, half_z + 0.015), (0.025, 0.025, 0.045))
    parts += painted(colour, *both_sides(mirror))
    if draw.chance(0.3):
        # Flared wings over the wheels.
        flare = draw.uniform(0.01, 0.03)
        for x in (-0.3, 0.3):
            wing = block((x, (low + nose) / 2 + 0.02, half_z), (0.24, nose - low - 0.02, 2 * flare))
            parts += painted(colour, *both_sides(wing))
    return parts + _additions(draw, style, colour, half_z, (low, belt, boot, roof))


def _open_top(draw: Draw, half_z: float, belt: float, roof: float, foot: float) -> list[Part]:
    """Return a convertible's windscreen, seats and dark inside."""
    z = 0.9 * half_z
    screen = [(foot - 0.02, belt, -z), (foot, belt, -z), (foot, belt, z), (foot - 0.02, belt, z)]
    parts = painted(_GLASS, loft([screen, [(x - 0.09, roof, 0.94 * z) for x, _, z in screen]]))
    leather = draw.choice((0.3, 0.18, 0.1), (0.12, 0.12, 0.12))
    for x in (-0.02, -0.2):
        seat = box((x - 0.04, belt - 0.03, 0.15 * half_z), (x, belt + 0.06, 0.75 * half_z))
        parts += painted(leather, *both_sides(seat))
    inside = box((-0.26, belt - 0.05, -0.85 * half_z), (0.1, belt + 0.004, 0.85 * half_z))
    return parts + painted((0.1, 0.1, 0.1), inside)


def _additions(
    draw: Draw, style: str, colour: Colour, half_z: float, heights: tuple[float, float, float, float]
) -> list[Part]:
    """Return a sports car's spoiler, an off-roader's spare wheel, rails on a roof; heights: sill, belt, boot, roof."""
    low, belt, boot, roof = heights
    parts: list[Part] = []
    if style == "sports" and draw.chance(0.6):
        y = boot + draw.uniform(0.03, 0.07)
        posts = both_sides(block((-0.44, y - 0.03, 0.5 * half_z), (0.03, 0.06, 0.02)))
        parts += painted(colour, block((-0.45, y, 0), (0.08, 0.014, 1.8 * half_z)), *posts)
    if style == "off-roader" and draw.chance(0.6):
        parts += painted(_TYRE, disc("x", 0.07, -0.53, -0.5).moved(y=(low + belt) / 2 + 0.03))
    if style in ("off-roader", "estate") and draw.chance(0.5):
        rail = block((-0.12, roof + 0.025, 0.6 * half_z), (0.4, 0.014, 0.014))
        parts += painted((0.3, 0.3, 0.3), *both_sides(rail))
    return parts


def _pickup(draw: Draw, colour: Colour, half_z: float, low: float) -> list[Part]:
    bonnet = low + draw.uniform(0.15, 0.19)
    split, double = draw.uniform(-0.14, 0.02), draw.uniform(0.18, 0.24)
    stations = [(0.5, bonnet - 0.05, 0.88), (0.46, bonnet - 0.02, 0.97), (0.25, bonnet, 1), (split, bonnet + 0.01, 1)]
    parts = painted(colour, _body(stations, low, half_z))
    roof = bonnet + draw.uniform(0.11, 0.15)
    places = (split + 0.01, split + 0.05, double - draw.uniform(0.1, 0.14), double)
    glass, top = _cabin(bonnet - 0.02, roof, 0.93 * half_z, places)
    parts += painted(_GLASS, glass) + painted(colour, top)
    wall, floor = 0.02, low + 0.05
    bed = [
        box((-0.5, low, -half_z), (split, floor, half_z)),
        box((-0.5, low, -half_z), (-0.5 + wall, bonnet - 0.01, half_z)),
        *both_sides(box((-0.5, low, half_z - wall), (split, bonnet - 0.01, half_z))),
    ]
    parts += painted(colour, *bed)
    if draw.chance(0.3):
        cargo = box((-0.46, floor, -0.8 * half_z), (split - 0.06, bonnet + draw.uniform(0, 0.1), 0.8 * half_z))
        parts += painted(draw.paint(), cargo)
    return parts


def _van(draw: Draw, colour: Colour, half_z: float, low: float) -> list[Part]:
    roof, nose = low + draw.uniform(0.28, 0.42), low + draw.uniform(0.1, 0.16)
    start = draw.uniform(0.16, 0.34)
    stations = [
        (0.5, nose - 0.01, 0.9),
        (0.47, nose, 0.98),
        (start + 0.08, nose + 0.04, 1),
        (start - 0.06, roof - 0.02, 1),
        (start - 0.1, roof, 1),
        (-0.48, roof, 1),
        (-0.5, roof - 0.02, 0.97),
    ]
    parts = painted(colour, _body(stations, low, half_z, 0.93))
    sill, head = nose + 0.07, roof - 0.05
    door = block((start - 0.12, (sill + head) / 2, 0), (0.16, head - sill, 1.93 * half_z))
    parts += painted(_GLASS, door)
    screen = [
        (start + 0.085, nose + 0.06),
        (start - 0.045, roof - 0.035),
        (start - 0.065, roof - 0.04),
        (start + 0.06, nose + 0.06),
    ]
    ring_P3 = [[(x, y, z) for x, y in screen] for z in (-0.8 * half_z, 0.8 * half_z)]
    parts += painted(_GLASS, loft(ring_P3))
    if draw.chance(0.6):
        parts += painted(_GLASS, block((-0.22, (sill + head) / 2, 0), (0.36, 0.8 * (head - sill), 1.93 * half_z)))
    return parts


def _bus(draw: Draw, colour: Colour, half_z: float, low: float) -> list[Part]:
    half_z *= draw.uniform(0.62, 0.85)
    roof = low + draw.choice(draw.uniform(0.22, 0.3), draw.uniform(0.36, 0.44))
    stations = [(0.5, roof - 0.03, 0.95), (0.48, roof, 1), (-0.49, roof, 1), (-0.5, roof - 0.02, 0.97)]
    parts = painted(colour, _body(stations, low, half_z, 0.98))
    decks = [0.62] if roof - low < 0.32 else [0.38, 0.8]
    count = draw.integer(4, 8)
    for deck in decks:
        y, height = low + deck * (roof - low), 0.26 / len(decks) * (roof - low) * 1.2
        for i in range(count):
            x = -0.43 + 0.84 * (i + 0.5) / count
            parts += painted(_GLASS, block((x, y, 0), (0.7 / count, height, 2.03 * half_z)))
        parts += painted(_GLASS, block((0.49, y, 0), (0.03, height, 1.7 * half_z)))
    if draw.chance(0.5):
        parts += painted(draw.grey(0.5, 0.9), block((draw.uniform(-0.2, 0.1), roof, 0), (0.25, 0.05, 1.2 * half_z)))
    return parts + painted(draw.paint(), block((0, low + 0.05, 0), (0.985, 0.03, 2.04 * half_z)))


def _lorry(draw: Draw, colour: Colour, half_z: float, low: float) -> list[Part]:
    split, cab_top = draw.uniform(0.2, 0.3), low + draw.uniform(0.25, 0.34)
    half_z *= draw.uniform(0.75, 0.95)
    if draw.chance(0.35):
        stations = [
            (0.5, low + 0.14, 0.85),
            (0.36, low + 0.17, 0.9),
            (0.35, cab_top - 0.02, 0.95),
            (split - 0.08, cab_top, 1),
        ]
    else:
        stations = [(0.5, cab_top - 0.06, 0.95), (0.46, cab_top, 1), (split, cab_top, 1)]
    parts = painted(colour, _body(stations, low, half_z, 0.96))
    window_x = stations[-1][0] + 0.1
    parts += painted(_GLASS, block((window_x, cab_top - 0.09, 0), (0.1, 0.08, 1.99 * half_z)))
    screen_x = stations[-2][0] + 0.006 if len(stations) == 4 else 0.475
    parts += painted(_GLASS, block((screen_x, cab_top - 0.09, 0), (0.035, 0.09, 1.6 * half_z)))
    rear = stations[-1][0] - 0.03
    parts += painted((0.2, 0.2, 0.2), box((-0.5, low, -0.6 * half_z), (rear + 0.05, low + 0.04, 0.6 * half_z)))
    load, floor = draw.choice("box", "tank", "flat", "tipper"), low + 0.05
    if load == "tank":
        radius = 0.85 * half_z
        parts += painted(draw.grey(0.6, 0.95), disc("x", radius, -0.5, rear, num_sides=24).moved(y=floor + radius))
    elif load == "flat":
        crates = box((-0.44, floor, -0.8 * half_z), (rear - 0.1, floor + draw.uniform(0.06, 0.2), 0.8 * half_z))
        parts += painted(draw.wood(), box((-0.5, floor - 0.02, -half_z), (rear, floor + 0.02, half_z)), crates)
    elif load == "tipper":
        profile = [(-0.52, floor + 0.04), (rear - 0.06, floor), (rear, floor + 0.16), (-0.5, floor + 0.18)]
        parts += painted(draw.paint(), loft([[(x, y, z) for x, y in profile] for z in (-half_z, half_z)]))
    else:
        parts += painted(
            draw.grey(0.5, 0.97), box((-0.5, floor, -half_z), (rear, cab_top + draw.uniform(0.0, 0.1), half_z))
        )
    return parts


def _wheels(draw: Draw, places: Sequence[float], half_z: float, radius: float) -> list[Part]:
    hub, width = draw.grey(0.45, 0.9), draw.uniform(0.05, 0.07)
    parts = []
    for x in places:
        tyre = revolved([(0.8, -0.5), (1, -0.35), (1, 0.35), (0.8, 0.5)], num_sides=22).scaled(radius, width, radius)
        rim = disc("y", 0.6 * radius, -0.4 * width, 0.55 * width, num_sides=14)
        for surface, colour in ((tyre, _TYRE), (rim, hub)):
            parts += painted(colour, *both_sides(surface.turned("x", 90).moved(x, radius, half_z - 0.4 * width)))
    return parts


def _lights(half_z: float, y: float) -> list[Part]:
    lamps = both_sides(block((0.472, y, 0.62 * half_z), (0.03, 0.03, 0.36 * half_z)))
    rear = both_sides(block((-0.487, y, 0.7 * half_z), (0.03, 0.03, 0.25 * half_z)))
    bumpers = [
        block((0.48, y - 0.075, 0), (0.04, 0.03, 1.8 * half_z)),
        block((-0.49, y - 0.075, 0), (0.03, 0.03, 1.8 * half_z)),
    ]
    return painted(_LIGHT, *lamps) + painted(_REAR_LIGHT, *rear) + painted((0.2, 0.2, 0.2), *bumpers)

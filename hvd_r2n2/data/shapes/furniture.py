"""Tables and cabinets: tops on feet, and boxes with doors, drawers and shelves."""

from itertools import pairwise

import numpy as np

from hvd_r2n2.data.shapes.legs import four_legs, plate_base, runners, side_panels, star_base, stretchers
from hvd_r2n2.data.shapes.parts import (
    Colour,
    Draw,
    Part,
    Surface,
    bar,
    block,
    both_sides,
    box,
    disc,
    outline,
    painted,
    prism,
    rod,
)


def table(draw: Draw) -> list[Part]:
    """Return a table, its longer side along z: dining, coffee, side or console table, or a desk."""
    wood = draw.wood() if draw.chance(0.65) else draw.grey()
    top_colour = wood if draw.chance(0.6) else draw.choice(draw.grey(0.7, 0.95), draw.paint(), (0.6, 0.72, 0.75))
    half_x = draw.uniform(0.25, 0.55)
    half_z = half_x * draw.uniform(1.0, 2.4)
    height = draw.choice(
        draw.uniform(0.3, 0.5), draw.uniform(0.6, 0.85), draw.uniform(0.6, 0.85), draw.uniform(0.9, 1.1)
    )
    thickness, size = draw.uniform(0.02, 0.08), draw.uniform(0.035, 0.1)
    under = height - thickness
    style = draw.choice("legs", "legs", "legs", "pedestal", "trestle", "panels", "runners", "crossed", "desk", "drum")
    if style in ("pedestal", "drum") and draw.chance(0.7):
        half_z = half_x
    parts = painted(top_colour, _table_top(draw, half_x, half_z, height, thickness, style))
    inner_x, inner_z = half_x * draw.uniform(0.75, 0.98), half_z * draw.uniform(0.75, 0.98)
    if style == "legs":
        parts += painted(wood, *four_legs(draw, inner_x, inner_z, under, size))
        if draw.chance(0.5):
            apron = draw.uniform(0.05, 0.14) * height
            parts += painted(wood, *_apron(inner_x - size / 2, inner_z - size / 2, under - apron, under))
        parts += _under_table(draw, wood, top_colour, inner_x, inner_z, under, size)
    elif style == "pedestal":
        base = star_base if draw.chance(0.4) else plate_base
        parts += painted(wood, *base(draw, draw.uniform(0.5, 0.85) * half_x, under))
        if half_z > 1.5 * half_x:
            spread = 0.5 * half_z
            parts = parts[:1] + [
                Part(part.surface.moved(z=z), part.colour) for part in parts[1:] for z in (-spread, spread)
            ]
    elif style == "drum":
        low, high = draw.uniform(0.4, 1.0), draw.uniform(0.3, 0.9)
        ring_P2 = outline(2 * half_x * low, 2 * half_z * low, roundness=draw.choice(0.05, 1.0))
        parts += painted(wood, prism(ring_P2, "y", 0, under, top_scale=high))
    else:
        support = {"trestle": _trestles, "panels": side_panels, "runners": runners, "crossed": _crossed, "desk": _desk}
        parts += painted(wood, *support[style](draw, inner_x, inner_z, under, size))
    return parts


def _table_top(draw: Draw, half_x: float, half_z: float, height: float, thickness: float, style: str) -> Surface:
    round_top = draw.chance(0.7 if style in ("pedestal", "drum") else 0.2)
    roundness = draw.uniform(0.8, 1.0) if round_top else draw.choice(0.05, 0.05, 0.05, draw.uniform(0.1, 0.5))
    ring_P2 = outline(2 * half_x, 2 * half_z, roundness=roundness, num_points=32)
    return prism(ring_P2, "y", height - thickness, height)


def _apron(half_x: float, half_z: float, low: float, high: float) -> list[Surface]:
    thickness = 0.02
    return [
        *both_sides(box((-half_x, low, half_z - thickness), (half_x, high, half_z))),
        box((half_x - thickness, low, -half_z), (half_x, high, half_z)),
        box((-half_x, low, -half_z), (-half_x + thickness, high, half_z)),
    ]


def _under_table(
    draw: Draw, wood: Colour, top_colour: Colour, half_x: float, half_z: float, under: float, size: float
) -> list[Part]:
    style = draw.choice("nothing", "nothing", "shelf", "stretchers", "drawers")
    if style == "shelf":
        y = draw.uniform(0.15, 0.45) * under
        return painted(top_colour, box((-half_x, y, -half_z), (half_x, y + 0.03, half_z)))
    if style == "stretchers":
        return painted(wood, *stretchers(draw, half_x, half_z, under, size))
    if style == "drawers":
        low, x = draw.uniform(0.65, 0.85) * under, 0.9 * half_x
        parts = painted(wood, box((-x, low, -0.95 * half_z), (x, under, 0.95 * half_z)))
        return parts + painted(
            (0.2, 0.2, 0.2), *both_sides(block((x, (low + under) / 2, half_z / 2), (0.04, 0.03, 0.12)))
        )
    return []


def _trestles(draw: Draw, half_x: float, half_z: float, top: float, size: float) -> list[Surface]:
    z, spread = draw.uniform(0.6, 0.9) * half_z, draw.uniform(0.0, 0.6)
    surfaces: list[Surface] = []
    for x in (-1, 1):
        surfaces += both_sides(bar((x * half_x, 0, z), (x * spread * half_x, top, z), size))
    surfaces += both_sides(box((-half_x, 0, z - 0.6 * size), (half_x, 0.8 * size, z + 0.6 * size)))
    beam = draw.uniform(0.3, 0.8) * top
    return [*surfaces, box((-size / 2, beam, -z), (size / 2, beam + size, z))]


def _crossed(draw: Draw, half_x: float, half_z: float, top: float, size: float) -> list[Surface]:
    """Return two X frames and a beam between them."""
    surfaces: list[Surface] = []
    z = draw.uniform(0.7, 0.95) * half_z
    for x in (-0.9 * half_x, 0.9 * half_x):
        surfaces += both_sides(rod((x, 0, z), (-x, top, z), 0.5 * size))
    return [*surfaces, rod((0, top / 2, -z), (0, top / 2, z), 0.3 * size)]


def _desk(draw: Draw, half_x: float, half_z: float, top: float, size: float) -> list[Surface]:
    """Return a drawer pedestal on one or both sides, a rear panel, and legs where there is no pedestal."""
    side, width, low = draw.choice(-1.0, 1.0), draw.uniform(0.3, 0.7) * half_z, draw.uniform(0, 0.15) * top
    sides = (side, -side) if draw.chance(0.4) else (side,)
    surfaces = []
    for direction in sides:
        surfaces.append(box((-half_x, low, half_z - width), (half_x, top, half_z)).scaled(z=direction))
        count = draw.integer(2, 4)
        for i in range(count):
            y = low + (i + 0.5) * (top - low) / count
            front = block((half_x, y, half_z - width / 2), (0.03, 0.8 * (top - low) / count, 0.88 * width))
            surfaces.append(front.scaled(z=direction))
    if len(sides) == 1:
        surfaces.append(box((-half_x, 0, half_z - size), (half_x, top, half_z)).scaled(z=-side))
    if draw.chance(0.7):
        surfaces.append(box((-half_x, draw.uniform(0.2, 0.6) * top, -half_z), (-half_x + 0.03, top, half_z)))
    return surfaces


def cabinet(draw: Draw) -> list[Part]:
    """Return a cabinet whose doors face +x: sideboard, wardrobe, shelf, chest of drawers or dresser."""
    wood = draw.wood() if draw.chance(0.6) else draw.grey(0.25, 0.95)
    front = wood if draw.chance(0.3) else draw.choice(draw.wood(), draw.paint(), draw.grey(0.3, 0.95))
    half_x, half_z = draw.uniform(0.15, 0.4), draw.uniform(0.25, 0.9)
    height, base = draw.uniform(0.45, 1.7), draw.choice(0.0, draw.uniform(0.04, 0.1), draw.uniform(0.08, 0.3))
    if half_z > 0.6:
        height = min(height, 1.1)
    parts = painted(wood, *_cabinet_base(draw, half_x, half_z, base))
    if draw.chance(0.3):
        parts += _shelves(draw, wood, front, half_x, half_z, base, base + height)
    else:
        parts += painted(wood, box((-half_x, base, -half_z), (half_x, base + height, half_z)))
        parts += _fronts(draw, front, half_x, half_z, base, base + height)
    top = base + height
    crown = draw.choice("none", "slab", "cornice", "hutch", "rear", "side")
    if crown == "slab":
        parts += painted(wood, box((-1.05 * half_x, top, -1.05 * half_z), (1.12 * half_x, top + 0.05, 1.05 * half_z)))
    elif crown == "cornice":
        ring_P2 = outline(2 * half_x, 2 * half_z, roundness=0.05)
        parts += painted(wood, prism(ring_P2, "y", top, top + 0.08, top_scale=1.15))
    elif crown == "hutch":
        depth, upper = draw.uniform(0.4, 0.8) * half_x, top + draw.uniform(0.3, 0.8)
        parts += [
            Part(part.surface.moved(x=depth - half_x), part.colour)
            for part in _shelves(draw, wood, front, depth, 0.95 * half_z, top, upper)
        ]
    elif crown == "rear":
        parts += painted(wood, box((-half_x, top, -half_z), (-0.85 * half_x, top + draw.uniform(0.1, 0.4), half_z)))
    elif crown == "side":
        width, side = draw.uniform(0.3, 0.9) * half_z, draw.choice(-1.0, 1.0)
        upper = top + draw.uniform(0.2, 0.7)
        parts += painted(front, box((-half_x, top, half_z - width), (half_x, upper, half_z)).scaled(z=side))
    return parts


def _cabinet_base(draw: Draw, half_x: float, half_z: float, height: float) -> list[Surface]:
    if height == 0.0:
        return []
    if draw.chance(0.35):
        return [box((-0.92 * half_x, 0, -0.92 * half_z), (0.85 * half_x, height, 0.92 * half_z))]
    return four_legs(draw, half_x, half_z, height, draw.uniform(0.04, 0.08))


def _fronts(draw: Draw, colour: Colour, half_x: float, half_z: float, low: float, high: float) -> list[Part]:
    """Return a grid of doors or drawers, slightly proud of the front, with handles or knobs."""
    columns = draw.integer(1, 2 + int(half_z > 0.4))
    rows = draw.choice(1, 1, 2, 3, 4, 5)
    split = np.linspace(low, high, rows + 1)
    if rows == 2 and draw.chance(0.6):
        split[1] = low + draw.uniform(0.3, 0.8) * (high - low)
    handle, metal = draw.choice("bar", "knob", "upright"), draw.grey(0.1, 0.8)
    proud, gap = draw.uniform(0.01, 0.04), 0.015
    parts = []
    for column in range(columns):
        z0, z1 = (-half_z + 2 * half_z * (column + i) / columns for i in (0, 1))
        for y0, y1 in pairwise(split):
            parts += painted(colour, box((half_x, y0 + gap, z0 + gap), (half_x + proud, y1 - gap, z1 - gap)))
            x, y, z = half_x + proud, (y0 + y1) / 2, (z0 + z1) / 2
            if handle == "bar":
                parts += painted(metal, block((x, y, z), (0.06, 0.025, 0.4 * (z1 - z0))))
            elif handle == "knob":
                parts += painted(metal, disc("x", 0.025, -0.01, 0.04, num_sides=10).moved(x, y, z))
            else:
                edge = z1 - 0.06 if column % 2 == 0 else z0 + 0.06
                parts += painted(metal, block((x, y, edge), (0.06, 0.3 * (y1 - y0), 0.02)))
    return parts


def _shelves(
    draw: Draw, wood: Colour, front: Colour, half_x: float, half_z: float, low: float, high: float
) -> list[Part]:
    """Return an open shelf: sides, boards, uprights, a rear wall or none, and some compartments closed by doors."""
    board = draw.uniform(0.025, 0.05)
    rows, columns = draw.integer(1, 4), draw.integer(1, 3)
    y_edges, z_edges = np.linspace(low, high - board, rows + 1), np.linspace(-half_z, half_z - board, columns + 1)
    surfaces = [box((-half_x, y, -half_z), (half_x, y + board, half_z)) for y in y_edges]
    surfaces += [box((-half_x, low, z), (half_x, high, z + board)) for z in z_edges]
    if draw.chance(0.7):
        surfaces.append(box((-half_x, low, -half_z), (-half_x + 0.02, high, half_z)))
    parts = painted(wood, *surfaces)
    for y0, y1 in pairwise(y_edges):
        for z0, z1 in pairwise(z_edges):
            if draw.chance(0.3):
                parts += painted(front, box((-half_x, y0, z0), (half_x, y1, z1)))
    return parts

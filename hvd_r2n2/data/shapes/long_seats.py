"""Benches and sofas: seats for several, their length along z."""

from hvd_r2n2.data.shapes.legs import four_legs, runners, side_panels
from hvd_r2n2.data.shapes.parts import (
    Draw,
    Part,
    Surface,
    bar,
    block,
    both_sides,
    box,
    cushion,
    disc,
    outline,
    painted,
    prism,
)


def bench(draw: Draw) -> list[Part]:
    """Return a bench that faces +x: plain, with a back and arms, or a picnic table with its benches."""
    wood, metal = draw.wood(), draw.grey(0.1, 0.6)
    half_z = draw.uniform(0.5, 1.1)
    if draw.chance(0.1):
        return _picnic_table(draw, half_z)
    half_x, seat_y = draw.uniform(0.16, 0.3), draw.uniform(0.36, 0.5)
    thickness, size = draw.uniform(0.03, 0.1), draw.uniform(0.05, 0.1)
    seat_colour, leg_colour = draw.choice((wood, wood), (wood, metal), (draw.paint(), metal))
    parts = painted(seat_colour, *_planks(draw, half_x, half_z, seat_y, thickness))
    parts += painted(leg_colour, *_bench_support(draw, half_x, half_z, seat_y - thickness, size))
    if draw.chance(0.6):
        parts += painted(seat_colour, *_bench_back(draw, half_x, half_z, seat_y, size))
        if draw.chance(0.6):
            arm_y, z = seat_y + draw.uniform(0.16, 0.26), half_z - size / 2
            rest = box((-half_x, arm_y - 0.4 * size, z - size / 2), (half_x, arm_y, z + size / 2))
            post = bar((0.8 * half_x, 0, z), (0.8 * half_x, arm_y, z), 0.6 * size)
            parts += painted(leg_colour, *both_sides(rest), *both_sides(post))
    elif draw.chance(0.3):
        # Raised ends, as of a hall bench.
        end_y = seat_y + draw.uniform(0.15, 0.3)
        parts += painted(leg_colour, *both_sides(box((-half_x, 0, half_z), (half_x, end_y, half_z + size))))
    return parts


def _planks(draw: Draw, half_x: float, half_z: float, top: float, thickness: float) -> list[Surface]:
    style = draw.choice("slab", "planks", "cushion", "rounded")
    if style == "planks":
        count, step = draw.integer(2, 4), 2 * half_x
        step /= count
        return [
            box((-half_x + i * step + 0.1 * step, top - thickness, -half_z), (-half_x + (i + 0.9) * step, top, half_z))
            for i in range(count)
        ]
    if style == "cushion":
        pad = cushion((0, top, 0), (2 * half_x, 1.2 * thickness, 2 * half_z), 0.2)
        return [box((-half_x, top - thickness, -half_z), (half_x, top, half_z)), pad]
    if style == "rounded":
        ring_P2 = outline(2 * half_x, 2 * half_z, roundness=draw.uniform(0.2, 0.8), num_points=28)
        return [prism(ring_P2, "y", top - thickness, top)]
    return [box((-half_x, top - thickness, -half_z), (half_x, top, half_z))]


def _bench_support(draw: Draw, half_x: float, half_z: float, top: float, size: float) -> list[Surface]:
    style = draw.choice("legs", "panels", "runners", "blocks", "trestle", "pedestals")
    inner_z = half_z * draw.uniform(0.7, 1.0)
    if style == "legs":
        return four_legs(draw, half_x, inner_z, top, size)
    if style == "panels":
        return side_panels(draw, half_x, inner_z, top, size)
    if style == "runners":
        return runners(draw, half_x, inner_z, top, 0.8 * size)
    if style == "blocks":
        length = draw.uniform(0.1, 0.4) * inner_z
        return list(both_sides(box((-0.8 * half_x, 0, inner_z - length), (0.8 * half_x, top, inner_z))))
    if style == "trestle":
        surfaces: list[Surface] = []
        for x in (-1, 1):
            leg = bar((x * half_x, 0, 0.75 * inner_z), (0.3 * x * half_x, top, 0.75 * inner_z), 0.7 * size)
            surfaces += both_sides(leg)
        return [*surfaces, block((0, 0.45 * top, 0), (0.5 * size, 0.6 * size, 1.5 * inner_z))]
    surfaces = []
    for z in (-0.7 * inner_z, 0.7 * inner_z):
        surfaces.append(box((-0.25 * half_x, 0, z - size / 2), (0.25 * half_x, top, z + size / 2)))
        surfaces.append(box((-0.9 * half_x, 0, z - size), (0.9 * half_x, 0.12 * top, z + size)))
    return surfaces


def _bench_back(draw: Draw, half_x: float, half_z: float, seat_y: float, size: float) -> list[Surface]:
    top, depth = seat_y + draw.uniform(0.3, 0.55), 0.5 * size
    style = draw.choice("panel", "rails", "slats", "rail")
    pieces: list[Surface] = []
    if style == "panel":
        pieces.append(box((0, seat_y - 0.5 * size, -half_z), (depth, top, half_z)))
    else:
        posts = box((0, seat_y - size, half_z - size), (depth, top, half_z))
        pieces += [*both_sides(posts), box((0, top - 1.2 * size, -half_z), (depth, top, half_z))]
    if style == "rails":
        count = draw.integer(1, 3)
        step = (top - seat_y - size) / (count + 0.5)
        for i in range(count):
            low = seat_y + (i + 0.4) * step
            pieces.append(box((0, low, -half_z), (depth, low + 0.55 * step, half_z)))
    if style == "slats":
        count = draw.integer(5, 12)
        for i in range(count):
            z = (2 * (i + 1) / (count + 1) - 1) * (half_z - size)
            pieces.append(box((0.1 * depth, seat_y - 0.5 * size, z - 0.3 * size), (0.9 * depth, top, z + 0.3 * size)))
    angle = draw.uniform(0, 15)
    return [piece.turned("z", angle, (0, seat_y, 0)).moved(x=-half_x) for piece in pieces]


def _picnic_table(draw: Draw, half_z: float) -> list[Part]:
    wood, reach = draw.wood(), draw.uniform(0.6, 0.75)
    seat_y, table_y, half_x = draw.uniform(0.4, 0.46), draw.uniform(0.68, 0.76), draw.uniform(0.3, 0.42)
    surfaces = [box((-half_x, table_y, -half_z), (half_x, table_y + 0.06, half_z))]
    for x in (-reach, reach):
        surfaces.append(box((x - 0.13, seat_y, -half_z), (x + 0.13, seat_y + 0.05, half_z)))
    for z in (-0.7 * half_z, 0.7 * half_z):
        surfaces.append(box((-reach, seat_y - 0.08, z - 0.03), (reach, seat_y, z + 0.03)))
        surfaces += [bar((x * 0.75 * reach, 0, z), (x * 0.4 * half_x, table_y, z), 0.08) for x in (-1, 1)]
    return painted(wood, *surfaces)


def sofa(draw: Draw) -> list[Part]:
    """Return a sofa or armchair that faces +x, straight or with a chaise to one side."""
    cover = draw.paint()
    cushions = cover if draw.chance(0.5) else draw.paint()
    seats = draw.choice(1, 2, 2, 3, 3, 4)
    half_z = seats * draw.uniform(0.28, 0.36)
    half_x, base_y = draw.uniform(0.34, 0.48), draw.uniform(0.04, 0.14)
    seat_y, back_y = base_y + draw.uniform(0.2, 0.32), base_y + draw.uniform(0.5, 0.85)
    back_depth, arm_width = draw.uniform(0.14, 0.26), draw.uniform(0.08, 0.22)
    pad = draw.uniform(0.1, 0.18)
    parts = painted(cover, box((-half_x, base_y, -half_z), (half_x, seat_y - pad, half_z)))
    parts += painted(cover, *_sofa_back(draw, half_x, half_z, seat_y - pad, back_y, back_depth))
    inner = half_x - back_depth / 2
    width = 2 * half_z / seats
    for i in range(seats):
        z = -half_z + (i + 0.5) * width
        seat_pad = cushion((back_depth / 2, seat_y - pad / 2, z), (2 * inner, 1.1 * pad, 0.98 * width), 0.2)
        parts += painted(cushions, seat_pad)
        if draw.chance(0.85) and back_y - seat_y > 0.15:
            height = back_y - seat_y
            back_pad = cushion((0, 0, 0), (height, 0.6 * pad, 0.94 * width), 0.25).turned("z", 100)
            parts += painted(cushions, back_pad.moved(-half_x + back_depth + 0.2 * pad, seat_y + height / 2, z))
    arm_style = draw.choice("block", "rolled", "sloped", "low", "none")
    outer_z = half_z + (arm_width if arm_style != "none" else 0.0)
    parts += painted(draw.wood(), *_sofa_feet(draw, half_x, outer_z, base_y))
    parts += painted(cover, *_sofa_arms(draw, arm_style, half_x, half_z, base_y, seat_y, back_y, arm_width))
    if seats >= 2 and draw.chance(0.3):
        side, reach = draw.choice(-1.0, 1.0), draw.uniform(0.4, 0.8)
        chaise = box((half_x, base_y, half_z - width), (half_x + reach, seat_y - pad, half_z))
        top = cushion((half_x + reach / 2, seat_y - pad / 2, half_z - width / 2), (reach, 1.1 * pad, width), 0.2)
        parts += painted(cover, chaise.scaled(z=side)) + painted(cushions, top.scaled(z=side))
    return parts


def _sofa_feet(draw: Draw, half_x: float, half_z: float, height: float) -> list[Surface]:
    if draw.chance(0.25):
        return [box((-0.93 * half_x, 0, -0.95 * half_z), (0.93 * half_x, height, 0.95 * half_z))]
    return four_legs(draw, 0.95 * half_x, 0.97 * half_z, height, draw.uniform(0.05, 0.09))


def _sofa_back(draw: Draw, half_x: float, half_z: float, low: float, top: float, depth: float) -> list[Surface]:
    style = draw.choice("straight", "straight", "raked", "rolled", "humped")
    if style == "straight":
        return [box((-half_x, low - 0.05, -half_z), (-half_x + depth, top, half_z))]
    if style == "raked":
        profile = [
            (-half_x, low - 0.05),
            (-half_x + depth, low - 0.05),
            (-half_x + 0.4 * depth, top),
            (-half_x - 0.4 * depth, top),
        ]
        return [prism(profile, "z", -half_z, half_z)]
    if style == "rolled":
        roll = disc("z", 0.5 * depth, -half_z, half_z).moved(-half_x + 0.4 * depth, top - 0.5 * depth)
        return [box((-half_x, low - 0.05, -half_z), (-half_x + 0.8 * depth, top - 0.5 * depth, half_z)), roll]
    ring_P2 = outline(2 * (top - low), 2 * half_z, roundness=0.6, num_points=28)
    ring_P2[:, 0] = ring_P2[:, 0].clip(-0.05, None)
    return [prism(ring_P2, "x", -half_x, -half_x + depth).moved(y=low)]


def _sofa_arms(
    draw: Draw, style: str, half_x: float, half_z: float, low: float, seat_y: float, back_y: float, width: float
) -> tuple[Surface, ...]:
    if style == "none":
        return ()
    top = seat_y + draw.uniform(0.3, 0.9) * (back_y - seat_y)
    if style == "low":
        top = seat_y + 0.02
    if style == "sloped":
        profile = [(-half_x, low), (half_x, low), (half_x, seat_y), (-half_x, top)]
        return both_sides(prism(profile, "z", half_z, half_z + width))
    arm = box((-half_x, low, half_z), (half_x, top, half_z + width))
    if style == "rolled":
        roll = disc("x", 0.65 * width, -half_x, half_x * 1.02).moved(y=top, z=half_z + 0.6 * width)
        return (*both_sides(arm), *both_sides(roll))
    return both_sides(arm)

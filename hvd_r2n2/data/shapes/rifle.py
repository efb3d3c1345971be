"""Rifles: hunting and sniper rifles, assault rifles, submachine guns, shotguns and muskets."""

import math

import numpy as np

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
    painted,
    prism,
    rod,
    tube,
)

_STEEL = (0.16, 0.16, 0.17)


def rifle(draw: Draw) -> list[Part]:
    """Return a rifle whose muzzle points to +x; its length is about 1."""
    style = draw.choice("bolt", "bolt", "assault", "assault", "submachine", "shotgun", "bullpup", "musket")
    steel = draw.grey(0.1, 0.35)
    stock = (
        draw.wood()
        if style in ("bolt", "musket", "shotgun") or draw.chance(0.3)
        else draw.choice(steel, draw.colour((0.1, 0.25), (0.15, 0.4), (0.25, 0.5)))
    )
    thickness = draw.uniform(0.035, 0.05)
    receiver_x = draw.uniform(-0.06, 0.04)
    receiver_length, receiver_height = draw.uniform(0.2, 0.3), draw.uniform(0.05, 0.08)
    muzzle = {"submachine": 0.32, "assault": 0.44}.get(style, 0.5) - draw.uniform(0, 0.06)
    barrel_y = draw.uniform(0.0, 0.02)
    parts = painted(steel, rod((receiver_x, barrel_y, 0), (muzzle, barrel_y, 0), draw.uniform(0.011, 0.017)))
    parts += painted(
        steel, block((receiver_x - receiver_length / 2, 0, 0), (receiver_length, receiver_height, thickness))
    )
    rear = receiver_x - receiver_length
    parts += painted(stock, *_stock(draw, style, rear, receiver_height, thickness))
    parts += painted(stock, *_forend(draw, style, receiver_x, muzzle, barrel_y, thickness))
    parts += painted(steel, *_sights(draw, style, rear, muzzle, receiver_height))
    if style not in ("musket", "shotgun"):
        place = rear - 0.12 if style == "bullpup" else receiver_x - draw.uniform(0.02, 0.12)
        parts += painted(_STEEL, _magazine(draw, style, place, receiver_height, thickness))
    if style not in ("bolt", "musket", "shotgun"):
        grip_x, lean = rear + draw.uniform(0.02, 0.06) + (0.1 if style == "bullpup" else 0.0), draw.uniform(0.02, 0.05)
        grip = [(grip_x, -0.02), (grip_x + 0.045, -0.02), (grip_x + 0.04 - lean, -0.14), (grip_x - lean, -0.14)]
        parts += painted(stock, prism(grip, "z", -0.4 * thickness, 0.4 * thickness))
    guard_x = rear + 0.07
    guard = [(guard_x, -0.025, 0), (guard_x, -0.065, 0), (guard_x + 0.07, -0.065, 0), (guard_x + 0.07, -0.025, 0)]
    parts += painted(_STEEL, tube(guard, 0.006, num_sides=6))
    return parts + _extras(draw, style, rear, muzzle, barrel_y, receiver_height)


def _stock(draw: Draw, style: str, rear: float, height: float, thickness: float) -> list[Surface]:
    end = -0.5
    butt, drop = draw.uniform(0.09, 0.14), draw.uniform(0.02, 0.08)
    half = 0.45 * thickness
    kind = draw.choice("solid", "skeleton", "wire", "telescopic") if style in ("assault", "submachine") else "solid"
    if style == "bullpup":
        profile = [
            (rear + 0.02, height / 2),
            (end, height / 2),
            (end, height / 2 - butt),
            (rear - 0.1, -height),
            (rear + 0.02, -height / 2),
        ]
        return [_blade(profile, half)]
    if kind == "wire":
        low = -drop - butt / 2
        path = [(rear, 0.01, 0), (end, 0.01 - drop, 0), (end, low, 0), (rear, -0.02, 0)]
        return [tube(path, 0.01, num_sides=8)]
    if kind == "telescopic":
        return [rod((rear, 0, 0), (end + 0.02, -0.01, 0), 0.018), box((end, -butt, -half), (end + 0.1, 0.03, half))]
    top = height / 2 - draw.uniform(0, 0.02)
    if kind == "skeleton":
        upper = [(rear, top), (end, top - drop / 2), (end, top - drop / 2 - 0.035), (rear, top - 0.04)]
        pad = box((end, top - drop / 2 - butt, -half), (end + 0.03, top - drop / 2, half))
        brace = rod((rear, -height / 2, 0), (end + 0.02, top - drop / 2 - butt + 0.02, 0), 0.014)
        return [prism(upper, "z", -half, half), pad, brace]
    wrist = rear - draw.uniform(0.05, 0.1)
    upper = [(rear + 0.03, top), (wrist, top - 0.4 * drop), (wrist - 0.04, top - 0.3 * drop), (end, top - drop)]
    lower = [
        (rear + 0.03, -height / 2),
        (wrist, -height / 2 - 0.2 * drop),
        (wrist - 0.04, -height / 2 - 0.6 * drop),
        (end, top - drop - butt),
    ]
    rings = [
        [(x, high, -half), (x, high, half), (low_x, low, half), (low_x, low, -half)]
        for (x, high), (low_x, low) in zip(upper, lower, strict=True)
    ]
    return [loft(rings)]


def _blade(profile: list[tuple[float, float]], half: float) -> Surface:
    """Return a plate of this x-y profile."""
    return prism(profile, "z", -half, half)


def _forend(draw: Draw, style: str, start: float, muzzle: float, y: float, thickness: float) -> list[Surface]:
    reach = {"musket": 0.9, "bolt": draw.uniform(0.35, 0.7), "submachine": 0.5}.get(style, draw.uniform(0.4, 0.7))
    end = start + reach * (muzzle - start)
    height = draw.uniform(0.035, 0.06)
    if style == "shotgun":
        slide = disc("x", 0.6 * thickness, start + 0.1, min(start + draw.uniform(0.22, 0.3), muzzle)).moved(y=y - 0.035)
        magazine = rod((start, y - 0.035, 0), (0.85 * muzzle, y - 0.035, 0), 0.014)
        return [slide, magazine]
    if draw.chance(0.3):
        return [disc("x", 0.6 * thickness, start, end, num_sides=12).moved(y=y)]
    half = 0.45 * thickness
    rings = [
        [
            (x, y + 0.2 * size, -half * size / height),
            (x, y + 0.2 * size, half * size / height),
            (x, y - size, 0.8 * half),
            (x, y - size, -0.8 * half),
        ]
        for x, size in ((start - 0.02, height), (end, height * draw.uniform(0.5, 1.0)))
    ]
    return [loft(rings)]


def _magazine(draw: Draw, style: str, x: float, height: float, thickness: float) -> Surface:
    length = {"bolt": draw.uniform(0.02, 0.07)}.get(style, draw.uniform(0.1, 0.2))
    width, curve = draw.uniform(0.04, 0.07), draw.choice(0.0, draw.uniform(0.2, 0.6))
    half = 0.35 * thickness
    if style in ("assault", "submachine") and draw.chance(0.12):
        return disc("z", 0.07, -0.035, 0.035).moved(x, -height / 2 - 0.06)
    rings = []
    for t in np.linspace(0, 1, 6):
        angle = curve * t
        cx, cy = x + length * t * math.sin(angle) * 0.8, -height / 2 + 0.01 - length * t * math.cos(angle)
        dx, dy = width / 2 * math.cos(angle), width / 2 * math.sin(angle)
        rings.append(
            [(cx - dx, cy - dy, -half), (cx + dx, cy + dy, -half), (cx + dx, cy + dy, half), (cx - dx, cy - dy, half)]
        )
    return loft(rings)


def _sights(draw: Draw, style: str, rear: float, muzzle: float, height: float) -> list[Surface]:
    top = height / 2
    scoped = draw.chance(0.75 if style == "bolt" else 0.25)
    surfaces = [block((muzzle - 0.03, 0.03, 0), (0.015, 0.04, 0.012))]
    if scoped:
        y, radius, length = top + draw.uniform(0.03, 0.045), draw.uniform(0.016, 0.024), draw.uniform(0.2, 0.32)
        x = rear + 0.02
        surfaces += [
            rod((x, y, 0), (x + length, y, 0), radius),
            disc("x", 1.5 * radius, x + 0.75 * length, x + length).moved(y=y),
        ]
        surfaces += [disc("x", 1.35 * radius, x, x + 0.2 * length).moved(y=y)]
        return surfaces + [block((x + t * length, (top + y) / 2, 0), (0.02, y - top, 0.02)) for t in (0.3, 0.65)]
    if style in ("assault", "bullpup") and draw.chance(0.45):
        y = top + draw.uniform(0.03, 0.05)
        handle = block((rear + 0.12, y, 0), (0.16, 0.014, 0.02))
        return [
            *surfaces,
            handle,
            *(block((rear + x, (top + y) / 2, 0), (0.02, y - top + 0.01, 0.02)) for x in (0.05, 0.19)),
        ]
    return [*surfaces, block((rear + 0.06, top + 0.01, 0), (0.03, 0.03, 0.02))]


def _extras(draw: Draw, style: str, rear: float, muzzle: float, y: float, height: float) -> list[Part]:
    parts: list[Part] = []
    steel: Colour = _STEEL
    if style == "bolt":
        parts += painted(steel, rod((rear + 0.1, 0.01, 0), (rear + 0.08, -0.01, 0.07), 0.008))
    if draw.chance(0.3):
        length, radius = draw.uniform(0.08, 0.18), draw.uniform(0.018, 0.026)
        parts += painted(steel, disc("x", radius, muzzle - 0.01, muzzle + length, num_sides=14).moved(y=y))
    elif draw.chance(0.4):
        parts += painted(steel, disc("x", 0.02, muzzle - 0.05, muzzle, num_sides=12).moved(y=y))
    if style in ("bolt", "assault") and draw.chance(0.3):
        x, spread = muzzle - draw.uniform(0.08, 0.2), draw.uniform(0.05, 0.1)
        parts += painted(steel, *both_sides(rod((x, y, 0.005), (x - 0.02, y - draw.uniform(0.14, 0.2), spread), 0.009)))
    if style in ("assault", "submachine") and draw.chance(0.3):
        x = 0.55 * muzzle
        parts += painted(steel, box((x, y - 0.13, -0.014), (x + 0.03, y - 0.01, 0.014)))
    if style == "musket" and draw.chance(0.4):
        parts += painted((0.75, 0.75, 0.78), block((muzzle + 0.06, y - 0.02, 0), (0.16, 0.018, 0.008)))
    return parts

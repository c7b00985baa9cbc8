"""The outlines of the generated scenes' objects, as tables of signed distances.

Each object is a union of discs, ellipses, strokes and polygons with holes, described once in a
unit square (x to the right, y downwards, both in [-1, 1]) and tabulated on a grid. Reading the
table at a rotated, scaled position draws the object with smooth edges at any size.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

GRID = 192
"""Cells of the table along x and along y."""

EXTENT = 1.3
"""The table covers [-EXTENT, EXTENT] in both directions."""


def _disc(x: Tensor, y: Tensor, cx: float, cy: float, radius: float) -> Tensor:
    return torch.sqrt((x - cx) ** 2 + (y - cy) ** 2) - radius


def _ellipse(x: Tensor, y: Tensor, cx: float, cy: float, rx: float, ry: float) -> Tensor:
    # first-order distance: exact on the outline, good enough a pixel away from it
    u, v = (x - cx) / rx, (y - cy) / ry
    level = torch.sqrt(u**2 + v**2)
    slope = torch.sqrt((u / rx) ** 2 + (v / ry) ** 2).clamp(min=1e-6)
    return (level - 1) * level / slope


def _stroke(
    x: Tensor, y: Tensor, start: tuple[float, float], end: tuple[float, float], half_width: float
) -> Tensor:
    return _segment(x, y, start, end) - half_width


def _segment(x: Tensor, y: Tensor, start: tuple[float, float], end: tuple[float, float]) -> Tensor:
    dx, dy = end[0] - start[0], end[1] - start[1]
    px, py = x - start[0], y - start[1]
    along = ((px * dx + py * dy) / (dx * dx + dy * dy)).clamp(0, 1)
    return torch.sqrt((px - along * dx) ** 2 + (py - along * dy) ** 2)


def _polygon(x: Tensor, y: Tensor, points: Sequence[tuple[float, float]]) -> Tensor:
    distance = torch.full_like(x, math.inf)
    inside = torch.zeros_like(x, dtype=torch.bool)
    for start, end in zip(points, [*points[1:], points[0]], strict=True):
        distance = torch.minimum(distance, _segment(x, y, start, end))
        if start[1] != end[1]:  # even-odd rule: a ray to the right crosses this edge
            crossing = start[0] + (y - start[1]) * (end[0] - start[0]) / (end[1] - start[1])
            inside ^= ((start[1] > y) != (end[1] > y)) & (x < crossing)
    return torch.where(inside, -distance, distance)


def _box(x: Tensor, y: Tensor, left: float, top: float, right: float, bottom: float) -> Tensor:
    return _polygon(x, y, [(left, top), (right, top), (right, bottom), (left, bottom)])


def _union(*parts: Tensor) -> Tensor:
    return torch.stack(parts).amin(0)


def _without(body: Tensor, *holes: Tensor) -> Tensor:
    return torch.maximum(body, -_union(*holes))


def _boat(x: Tensor, y: Tensor) -> Tensor:
    hull = _polygon(x, y, [(-0.95, 0.35), (0.95, 0.35), (0.6, 0.85), (-0.6, 0.85)])
    sail = _polygon(x, y, [(0.05, -0.95), (0.75, 0.2), (0.05, 0.2)])
    jib = _polygon(x, y, [(-0.12, -0.65), (-0.12, 0.2), (-0.65, 0.2)])
    mast = _stroke(x, y, (0.0, -0.9), (0.0, 0.5), 0.05)
    return _union(hull, sail, jib, mast)


def _car(x: Tensor, y: Tensor) -> Tensor:
    body = _box(x, y, -0.98, -0.05, 0.98, 0.42)
    cabin = _polygon(x, y, [(-0.6, 0.0), (-0.38, -0.55), (0.38, -0.55), (0.62, 0.0)])
    window = _polygon(x, y, [(-0.4, -0.06), (-0.26, -0.4), (-0.04, -0.4), (-0.04, -0.06)])
    other = _polygon(x, y, [(0.4, -0.06), (0.26, -0.4), (0.08, -0.4), (0.08, -0.06)])
    arches = [_disc(x, y, cx, 0.42, 0.34) for cx in (-0.52, 0.52)]
    wheels = [_disc(x, y, cx, 0.42, 0.24) for cx in (-0.52, 0.52)]
    return _union(_without(_union(body, cabin), window, other, *arches), *wheels)


def _cat(x: Tensor, y: Tensor) -> Tensor:
    head = _ellipse(x, y, 0.0, 0.2, 0.85, 0.7)
    left = _polygon(x, y, [(-0.76, -0.8), (-0.82, 0.15), (-0.12, -0.4)])
    right = _polygon(x, y, [(0.76, -0.8), (0.82, 0.15), (0.12, -0.4)])
    eyes = [_ellipse(x, y, cx, 0.05, 0.13, 0.19) for cx in (-0.36, 0.36)]
    nose = _polygon(x, y, [(-0.15, 0.42), (0.15, 0.42), (0.0, 0.62)])
    return _without(_union(head, left, right), *eyes, nose)


def _cup(x: Tensor, y: Tensor) -> Tensor:
    body = _polygon(x, y, [(-0.85, -0.7), (0.45, -0.7), (0.3, 0.8), (-0.7, 0.8)])
    handle = _ellipse(x, y, 0.42, -0.05, 0.56, 0.48).abs() - 0.11
    return _union(body, torch.maximum(handle, 0.3 - x))


def _fish(x: Tensor, y: Tensor) -> Tensor:
    body = _ellipse(x, y, -0.2, 0.0, 0.75, 0.52)
    tail = _polygon(x, y, [(0.3, 0.0), (0.98, -0.58), (0.8, 0.0), (0.98, 0.58)])
    fin = _polygon(x, y, [(-0.35, -0.4), (0.1, -0.85), (0.3, -0.3)])
    return _without(_union(body, tail, fin), _disc(x, y, -0.6, -0.1, 0.11))


def _flower(x: Tensor, y: Tensor) -> Tensor:
    angles = [2 * math.pi * i / 6 for i in range(6)]
    petals = [_disc(x, y, 0.6 * math.cos(a), 0.6 * math.sin(a), 0.36) for a in angles]
    ring = _disc(x, y, 0.0, 0.0, 0.5)
    return _without(_union(ring, *petals), _disc(x, y, 0.0, 0.0, 0.23))


def _heart(x: Tensor, y: Tensor) -> Tensor:
    turns = [2 * math.pi * i / 48 for i in range(48)]
    wave = [
        13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        for t in turns
    ]
    points = [(0.95 * math.sin(t) ** 3, -0.06 * w - 0.1) for t, w in zip(turns, wave, strict=True)]
    return _polygon(x, y, points)


def _house(x: Tensor, y: Tensor) -> Tensor:
    walls = _box(x, y, -0.68, -0.1, 0.68, 0.88)
    roof = _polygon(x, y, [(-0.98, -0.02), (0.0, -0.92), (0.98, -0.02)])
    chimney = _box(x, y, 0.4, -0.85, 0.66, -0.2)
    door = _box(x, y, -0.45, 0.3, -0.1, 0.9)
    window = _box(x, y, 0.12, 0.2, 0.48, 0.54)
    return _without(_union(walls, roof, chimney), door, window)


def _moon(x: Tensor, y: Tensor) -> Tensor:
    return _without(_disc(x, y, 0.0, 0.0, 0.95), _disc(x, y, 0.5, -0.15, 0.74))


def _star(x: Tensor, y: Tensor) -> Tensor:
    points = []
    for i in range(10):
        radius, angle = (1.0 if i % 2 == 0 else 0.45), math.pi * (i / 5 - 0.5)
        points.append((radius * math.cos(angle), radius * math.sin(angle) + 0.05))
    return _polygon(x, y, points)


def _tree(x: Tensor, y: Tensor) -> Tensor:
    tiers = [
        _polygon(x, y, [(0.0, -1.0), (0.46, -0.38), (-0.46, -0.38)]),
        _polygon(x, y, [(0.0, -0.7), (0.64, 0.08), (-0.64, 0.08)]),
        _polygon(x, y, [(0.0, -0.3), (0.82, 0.6), (-0.82, 0.6)]),
    ]
    return _union(*tiers, _box(x, y, -0.17, 0.5, 0.17, 0.98))


def _umbrella(x: Tensor, y: Tensor) -> Tensor:
    scallops = [_ellipse(x, y, cx, 0.05, 0.34, 0.2) for cx in (-0.64, 0.0, 0.64)]
    canopy = _without(torch.maximum(_disc(x, y, 0.0, 0.02, 0.97), y - 0.05), *scallops)
    stick = _stroke(x, y, (0.0, -0.3), (0.0, 0.72), 0.07)
    hook = torch.maximum(_disc(x, y, 0.2, 0.72, 0.2).abs() - 0.07, 0.72 - y)
    return _union(canopy, stick, hook)


OUTLINES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "boat": _boat,
    "car": _car,
    "cat": _cat,
    "cup": _cup,
    "fish": _fish,
    "flower": _flower,
    "heart": _heart,
    "house": _house,
    "moon": _moon,
    "star": _star,
    "tree": _tree,
    "umbrella": _umbrella,
}
"""Signed distance of each object's outline at the positions (x, y); negative inside."""


def _arrow(x: Tensor, y: Tensor) -> Tensor:
    head = _polygon(x, y, [(0.95, 0.0), (0.15, -0.75), (0.15, 0.75)])
    return _union(head, _box(x, y, -0.95, -0.26, 0.2, 0.26))


def _bolt(x: Tensor, y: Tensor) -> Tensor:
    upper = [(0.35, -0.98), (-0.6, 0.15), (-0.05, 0.15)]
    return _polygon(x, y, [*upper, (-0.35, 0.98), (0.6, -0.25), (0.05, -0.25)])


def _cross(x: Tensor, y: Tensor) -> Tensor:
    return _union(_box(x, y, -0.92, -0.3, 0.92, 0.3), _box(x, y, -0.3, -0.92, 0.3, 0.92))


def _diamond(x: Tensor, y: Tensor) -> Tensor:
    return _polygon(x, y, [(0.0, -0.95), (0.65, 0.0), (0.0, 0.95), (-0.65, 0.0)])


def _key(x: Tensor, y: Tensor) -> Tensor:
    bow = _without(_disc(x, y, -0.5, 0.0, 0.46), _disc(x, y, -0.5, 0.0, 0.2))
    teeth = [_box(x, y, left, 0.0, left + 0.2, 0.48) for left in (0.38, 0.75)]
    return _union(bow, _box(x, y, -0.15, -0.13, 0.95, 0.13), *teeth)


def _mushroom(x: Tensor, y: Tensor) -> Tensor:
    cap = torch.maximum(_ellipse(x, y, 0.0, 0.05, 0.92, 0.85), y - 0.1)
    return _union(cap, _box(x, y, -0.28, 0.05, 0.28, 0.88))


def _ring(x: Tensor, y: Tensor) -> Tensor:
    return _disc(x, y, 0.0, 0.0, 0.68).abs() - 0.25


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    return _polygon(x, y, [(0.0, -0.9), (0.95, 0.8), (-0.95, 0.8)])


FOREIGN_OUTLINES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "arrow": _arrow,
    "bolt": _bolt,
    "cross": _cross,
    "diamond": _diamond,
    "key": _key,
    "mushroom": _mushroom,
    "ring": _ring,
    "triangle": _triangle,
}
"""Outlines of small objects that are no object of the labels, so that no text speaks of them."""


@lru_cache(maxsize=1)
def distance_tables() -> Tensor:
    """Return signed distances of the objects in `OUTLINES`, then `FOREIGN_OUTLINES`.

    Returns:
        `[number of objects, GRID, GRID]`, float32, negative inside, rows along y: cell (j, i) is
        the distance at x = (i + 0.5) · 2·EXTENT/GRID - EXTENT, y likewise from j. Treat it as
        read-only.

    Examples:
        >>> tables = distance_tables()
        >>> tables.shape, bool((tables[3, 96, 80] < 0) & (tables[3, 0, 0] > 0))
        (torch.Size([20, 192, 192]), True)
    """
    outlines = [*OUTLINES.values(), *FOREIGN_OUTLINES.values()]
    axis = (torch.arange(GRID, dtype=torch.float32) + 0.5) * (2 * EXTENT / GRID) - EXTENT
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([outline(x, y) for outline in outlines])

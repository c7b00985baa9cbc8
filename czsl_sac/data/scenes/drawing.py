"""Drawing of the generated scenes, a batch at a time.

Every random number is a hash of the item's key and the number's place in the drawing, so an
image depends on its key alone: not on the batch, the order, the worker or torch's generators.
Only additions, products, quotients and table look-ups touch the pixels, never a function whose
last bit may change with a tensor's length.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from czsl_sac.data.scenes.shapes import EXTENT, GRID, distance_tables

COLOURS: dict[str, tuple[float, float, float]] = {
    "blue": (0.12, 0.30, 0.88),
    "gray": (0.52, 0.52, 0.53),
    "green": (0.13, 0.66, 0.20),
    "orange": (0.97, 0.50, 0.05),
    "pink": (0.98, 0.56, 0.76),
    "purple": (0.50, 0.14, 0.70),
    "red": (0.86, 0.10, 0.11),
    "yellow": (0.97, 0.89, 0.12),
}
TEXTURES = ("dotted", "hollow", "plaid", "striped")
ATTRIBUTES: tuple[str, ...] = tuple(sorted([*COLOURS, *TEXTURES]))
"""The scenes' attributes; `draw_scenes` counts them in this order."""

MAX_DISTRACTORS = 8

_MASK = 0xFFFFFFFF
_REACH = 1.15  # no outline reaches further from its centre, in radii


def _mix(x: Tensor) -> Tensor:
    # a 32-bit integer hash (two rounds of xor-shift and multiply) on int64; products wrap around
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def scene_keys(seed: int, stream: int, indices: Tensor) -> Tensor:
    """Return the keys of the items of one stream of images, distinct for distinct indices.

    Args:
        seed: image seed.
        stream: which of the seed's streams (a split has one of its own).
        indices: item indices, `[B]` int64; the scenes are drawn on their device.

    Returns:
        `[B]` int64.

    Examples:
        >>> scene_keys(0, 1, torch.tensor([5, 6])).tolist() == [
        ...     int(scene_keys(0, 1, torch.tensor([i]))) for i in (5, 6)]
        True
    """
    start = _mix((_mix(torch.tensor(seed & _MASK)) + stream + 1) & _MASK)
    return _mix(start ^ (indices & _MASK))


class Uniforms:
    """Uniform numbers in [0, 1) for a batch of keys; each call takes the next ones.

    Args:
        keys: item keys, `[B]` int64, from `scene_keys`.
        purpose: separates the numbers of one use from those of another.

    Examples:
        >>> numbers = Uniforms(scene_keys(0, 0, torch.arange(4)), purpose=0)
        >>> numbers(3).shape, numbers(2, 5).shape
        (torch.Size([4, 3]), torch.Size([4, 2, 5]))
    """

    def __init__(self, keys: Tensor, purpose: int) -> None:
        self._keys = _mix((keys ^ (0x5BD1E995 * (purpose + 1))) & _MASK)
        self._taken = 0

    def __call__(self, *shape: int) -> Tensor:
        """Return the next numbers, float32 `[B, *shape]`."""
        count = math.prod(shape)
        device = self._keys.device
        places = torch.arange(self._taken, self._taken + count, device=device) * 0x9E3779B9
        self._taken += count
        bits = _mix((self._keys[:, None] + places) & _MASK) >> 8
        return (bits.to(torch.float32) * 2.0**-24).reshape(-1, *shape)


class Scene(NamedTuple):
    """A batch of drawn scenes.

    Attributes:
        images: `[B, 3, H, W]` float32 in [0, 1], on the 256 levels of an 8-bit image.
        masks: `[B, H, W]` float32 in [0, 1]: how much of each pixel the labelled object covers.
        owners: `[B, H, W]` uint8: which object shows at each pixel, by more than half of it: 0 is
            the background, 1 the labelled object, 2 + k small object k.
    """

    images: Tensor
    masks: Tensor
    owners: Tensor


class _Things(NamedTuple):
    # placed objects; every field [B] or [B, K], lengths in pixels, colours [..., 3]
    attribute: Tensor
    object: Tensor
    x: Tensor
    y: Tensor
    radius: Tensor


@lru_cache(maxsize=4)
def _palette(device: torch.device) -> Tensor:
    return torch.tensor([COLOURS.get(name, (0.0, 0.0, 0.0)) for name in ATTRIBUTES], device=device)


def _hue_colour(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    offsets = torch.tensor([0.0, 2 / 3, 1 / 3], device=hue.device)
    ramp = (((hue[..., None] + offsets) % 1.0) * 6 - 3).abs() - 1
    return value[..., None] * (1 + saturation[..., None] * (ramp.clamp(0, 1) - 1))


def _colours(attribute: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    # the two colours [..., 3] of each thing; u [..., 10]. Textures take any hue, beside a light,
    # a dark or an opposite one, so that no texture is bound to a colour word.
    palette = _palette(attribute.device)[attribute]
    is_colour = palette.sum(-1, keepdim=True) > 0
    is_hollow = (attribute == ATTRIBUTES.index("hollow"))[..., None]
    jitter = (u[..., 0:3] - 0.5) * 0.12
    word = (palette + jitter) * (0.82 + 0.26 * u[..., 3:4])
    hue = u[..., 4]
    first = _hue_colour(hue, 0.45 + 0.5 * u[..., 5], 0.45 + 0.5 * u[..., 6])
    opposite = _hue_colour(hue + 0.3 + 0.4 * u[..., 7], 0.4 + 0.5 * u[..., 8], 0.8 + 0 * hue)
    plain = torch.where(u[..., 8:9] < 0.55, 0.95, 0.12).expand_as(opposite)
    light_first = first.sum(-1, keepdim=True) > 1.6
    plain = torch.where(light_first & (plain > 0.5), plain - 0.83, plain)
    second = torch.where(u[..., 9:10] < 0.7, plain, opposite)
    second = torch.where(is_hollow, first, second)
    return torch.where(is_colour, word, first), torch.where(is_colour, word, second)


@lru_cache(maxsize=4)
def _tables(device: torch.device) -> Tensor:
    return distance_tables().reshape(-1).to(device)


def _render(things: _Things, u: Tensor, size: int) -> tuple[Tensor, ...]:
    """Draw each thing into a square window of the image.

    Args:
        things: K placed objects an image, each field `[B, K]`.
        u: uniform numbers, `[B, K, 16]`.
        size: height and width of the image.

    Returns:
        The windows' pixel indices into the flattened image `[B, K, n]`, colours `[B, K, 3, n]` and
        coverage `[B, K, n]`. n follows the largest radius; a window's size changes no pixel.
    """
    window = min(size, math.ceil(2 * _REACH * float(things.radius.max())) + 2)
    steps = torch.arange(window, device=u.device)
    left = (things.x - window / 2).round().clamp(0, size - window).long()[..., None] + steps
    top = (things.y - window / 2).round().clamp(0, size - window).long()[..., None] + steps
    dx = (left + 0.5 - things.x[..., None])[..., None, :]  # [B, K, 1, window]
    dy = (top + 0.5 - things.y[..., None])[..., :, None]
    radius = things.radius[..., None, None]
    attribute = things.attribute[..., None, None]

    def turned(tangent: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        # rotation by twice the angle of this tangent, free of sine and cosine
        cos = ((1 - tangent**2) / (1 + tangent**2))[..., None, None] * scale
        sin = (2 * tangent / (1 + tangent**2))[..., None, None] * scale
        return dx * cos + dy * sin, dy * cos - dx * sin

    cells = GRID / (2 * EXTENT) / radius
    mirror = torch.where(u[..., 1] < 0.5, -1.0, 1.0)[..., None, None]
    column, row = turned((u[..., 0] - 0.5) * 0.36, cells)  # up to 20 degrees
    column = column.mul_(mirror).add_(GRID / 2).clamp_(0, GRID - 1).int()
    row = row.add_(GRID / 2).clamp_(0, GRID - 1).int()
    place = row.mul_(GRID).add_(column).add_(things.object.int()[..., None, None] * GRID**2)
    distance = _tables(u.device).index_select(0, place.flatten()).view(place.shape)
    distance.mul_(radius)  # in pixels, negative inside

    hollow = attribute == ATTRIBUTES.index("hollow")
    wall = torch.where(hollow, (0.05 * radius + 0.4).clamp(min=0.7), 1e4)
    coverage = ((distance + wall).abs_().sub_(wall + 0.5)).neg_().clamp_(0, 1)

    # textures: how far inside the second colour, on a turned lattice, in pixels; plaid lays
    # stripes over stripes and has a third colour, half-way, where only one of the two is
    period = (radius * (0.38 + 0.16 * u[..., 2, None, None])).clamp(min=3.4)
    tu, tv = turned(u[..., 3] * 2 - 1, 1 / period)
    tu = tu.add_(u[..., 4, None, None]).frac_().abs_().sub_(0.5).abs_().sub_(0.25)
    tv = tv.add_(u[..., 5, None, None]).frac_().abs_().sub_(0.5).abs_().sub_(0.25)
    dots = ((tu + 0.25).square_().add_((tv + 0.25).square_())).sqrt_().neg_().add_(0.33)
    level = torch.where(attribute == ATTRIBUTES.index("dotted"), dots, tu)
    share = level.mul_(period).add_(0.5).clamp_(0, 1)
    across = tv.mul_(period).add_(0.5).clamp_(0, 1)
    plaid = torch.where(attribute == ATTRIBUTES.index("plaid"), 0.5, 0.0)
    share.add_(across.sub_(share).mul_(plaid))

    # a dark rim keeps an object apart from a background of its own colour
    rim = distance.add_(1.6).clamp_(0, 1).mul_(torch.where(hollow, 0.0, -0.55)).add_(1)
    shade = rim.mul_(1.04 - 0.12 * dy / radius)
    first, second = _colours(things.attribute, u[..., 6:16])
    colours = share.unsqueeze(2) * (second - first)[..., None, None]
    colours = colours.add_(first[..., None, None]).mul_(shade.unsqueeze(2)).clamp_(0, 1)
    pixels = top[..., :, None] * size + left[..., None, :]
    return pixels.flatten(2), colours.flatten(3), coverage.flatten(2)


def _paint(canvas: Tensor, pixels: Tensor, colours: Tensor, coverage: Tensor) -> None:
    # canvas [B, 3, H·W]; pixels, coverage [B, n]; colours [B, 3, n]
    index = pixels[:, None].expand(-1, canvas.shape[1], -1)
    below = canvas.gather(2, index)
    canvas.scatter_(2, index, colours.sub_(below).mul_(coverage[:, None]).add_(below))


def _own(owners: Tensor, pixels: Tensor, coverage: Tensor, owner: int) -> None:
    # owners [B, H·W]; pixels, coverage [B, n]
    below = owners.gather(1, pixels)
    owners.scatter_(1, pixels, below.masked_fill_(coverage > 0.5, owner))


@lru_cache(maxsize=4)
def _waves(size: int, knots: int, device: torch.device) -> Tensor:
    # smooth interpolation weights from `knots` values to `size` pixels: [knots, size]
    position = (torch.arange(size, dtype=torch.float32) + 0.5) / size * (knots - 1)
    distance = (position - torch.arange(knots, dtype=torch.float32)[:, None]).abs().clamp(max=1)
    return (1 - distance * distance * (3 - 2 * distance)).to(device)


@lru_cache(maxsize=2)
def _noise(size: int, device: torch.device) -> Tensor:
    # 32 fields of noise [32, 3, H·W]; an image adds two of them
    uniforms = Uniforms(torch.arange(32, device=device), purpose=77)
    return uniforms(3, size * size) + uniforms(3, size * size) - 1


def _background(clutter: Tensor, uniforms: Uniforms, size: int) -> Tensor:
    B, device = clutter.shape[0], clutter.device
    variety = clutter[:, None, None, None]
    base = _hue_colour(uniforms(), 0.3 * uniforms(), 0.35 + 0.55 * uniforms())
    fields, amount = (uniforms(2) * 32).long(), 0.02 + 0.06 * uniforms() * (0.3 + 0.7 * clutter)
    noise = _noise(size, device)
    canvas = noise[fields[:, 0]].sub_(noise[fields[:, 1]])
    canvas.mul_(amount[:, None, None]).add_(base[..., None])
    image = canvas.view(B, 3, size, size)
    for knots, strength in ((3, 0.6), (6, 0.45)):
        values = (uniforms(3, knots, knots) - 0.5) * (strength * (0.15 + 0.85 * variety))
        weights = _waves(size, knots, device)
        rows = torch.zeros(B, 3, knots, size, device=device)
        for k in range(knots):
            rows.addcmul_(values[..., k, None], weights[k])
        for k in range(knots):
            image.addcmul_(rows[:, :, k, None, :], weights[k][:, None])
    return canvas


def _place(
    clutter: Tensor, uniforms: Uniforms, size: int, small_objects: int | None
) -> tuple[Tensor, ...]:
    """Return positions and radii (pixels) of the labelled object `[B]` and the small ones `[B, K]`.

    A small object takes, of eight random places, the one furthest from all that stand already.
    Those beyond the image's number get radius zero.
    """
    u = uniforms(4)
    radius = size * (0.36 - 0.15 * clutter) * (0.95 + 0.1 * u[:, 0])
    reach = (size - 2 * radius) / 2 + 0.06 * size * clutter
    x = size / 2 + (u[:, 1] * 2 - 1) * reach
    y = size / 2 + (u[:, 2] * 2 - 1) * reach
    K = MAX_DISTRACTORS
    number = (clutter * (K - 1) + 2 * u[:, 3] * (clutter > 0)).floor().clamp(max=K)
    if small_objects is not None:
        number = torch.full_like(number, small_objects)
    radii = size * (0.09 + 0.055 * clutter[:, None]) * (0.85 + 0.25 * uniforms(K))
    radii = radii * (torch.arange(K, device=clutter.device) < number[:, None])
    candidates = (0.06 + 0.88 * uniforms(K, 8, 2)) * size
    taken = torch.stack([x, y], -1)[:, None]  # [B, standing, 2]
    radii_taken = radius[:, None]
    for k in range(K):
        gap = (candidates[:, k, :, None] - taken[:, None]).square().sum(-1).sqrt()
        best = (gap - radii_taken[:, None]).amin(-1).argmax(1)
        chosen = candidates[torch.arange(len(best), device=best.device), k, best]
        taken = torch.cat([taken, chosen[:, None]], 1)
        radii_taken = torch.cat([radii_taken, radii[:, k, None]], 1)
    return x, y, radius, taken[:, 1:, 0], taken[:, 1:, 1], radii


def draw_scenes(
    keys: Tensor,
    labels: Tensor,
    distractors: Tensor,
    clutter: Tensor,
    image_size: int,
    *,
    small_objects: int | None = None,
) -> Scene:
    """Draw one large labelled object among smaller ones on a smooth, noisy background.

    Args:
        keys: one per image, from `scene_keys`, `[B]` int64; all else is on their device. On a GPU
            a pixel may differ from a CPU's by one level of 256, where rounding decides.
        labels: the labelled object's attribute and object indices, `[B, 2]` int64.
        distractors: the same for the smaller objects, `[B, MAX_DISTRACTORS, 2]` int64; objects
            from `len(OUTLINES)` on are the foreign ones.
        clutter: `[B]` float32 in [0, 1]: the more, the smaller the labelled object, the more
            and the larger the others, and the busier the background.
        image_size: height and width in pixels.
        small_objects: how many of the smaller objects are drawn; None: `clutter` decides.

    Examples:
        >>> labels = torch.tensor([[7, 3]])
        >>> scene = draw_scenes(scene_keys(0, 0, torch.tensor([1])), labels,
        ...                     torch.zeros(1, MAX_DISTRACTORS, 2, dtype=torch.long),
        ...                     torch.tensor([0.5]), image_size=64)
        >>> scene.images.shape, scene.masks.shape, scene.owners.unique().tolist()
        (torch.Size([1, 3, 64, 64]), torch.Size([1, 64, 64]), [0, 1, 2, 3, 4, 5])
    """
    B, size = keys.shape[0], image_size
    uniforms = Uniforms(keys, purpose=0)
    canvas = _background(clutter, uniforms, size)
    x, y, radius, xs, ys, radii = _place(clutter, uniforms, size, small_objects)
    K = max(1, int((radii > 0).sum(1).max()))
    u, small = uniforms(MAX_DISTRACTORS, 16)[:, :K], distractors[:, :K]
    things = _Things(small[..., 0], small[..., 1], xs[:, :K], ys[:, :K], radii[:, :K].clamp(min=1))
    pixels, colours, coverage = _render(things, u, size)
    coverage = coverage * (radii[:, :K] > 0)[..., None]
    owners = torch.zeros(B, size * size, dtype=torch.uint8, device=keys.device)
    for k in range(K):
        _paint(canvas, pixels[:, k], colours[:, k], coverage[:, k])
        _own(owners, pixels[:, k], coverage[:, k], k + 2)
    things = _Things(*(t[:, None] for t in (labels[:, 0], labels[:, 1], x, y, radius)))
    pixels, colours, coverage = _render(things, uniforms(1, 16), size)
    _paint(canvas, pixels[:, 0], colours[:, 0], coverage[:, 0])
    _own(owners, pixels[:, 0], coverage[:, 0], 1)
    masks = torch.zeros(B, size * size, device=keys.device)
    masks.scatter_(1, pixels[:, 0], coverage[:, 0])
    light = (0.85 + 0.2 * uniforms(1)) * (0.95 + 0.1 * uniforms(3))
    images = canvas.mul_(light[..., None]).clamp_(0, 1).mul_(255).round_().div_(255)
    shape = (B, size, size)
    return Scene(images.reshape(B, 3, size, size), masks.reshape(shape), owners.reshape(shape))

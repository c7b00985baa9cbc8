"""Where a prediction comes from, drawn over the image (the paper's Fig. 5 and 12).

Three maps over the patches: the similarity of each to the composition's text with the patch that
sparse alignment takes (Eq. 2), the attention of the condenser (Sec. 4.2), and the attention of
the class token in CLIP's last layer, which is all that methods on the class token have.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from czsl_sac.blocks.alignment import ClassTokenAligner, PatchMaxAligner
from czsl_sac.clip.vision import VisionTower
from czsl_sac.files import write_atomically
from czsl_sac.methods.base import CZSLMethod, Predictor
from czsl_sac.predict.pictures import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Looks(NamedTuple):
    """Where a method looked in B images, for one composition each; of T tokens, class token first.

    Attributes:
        similarity: of each token to the composition's text, before the reduction, `[B, T]`; None
            where the class token alone is compared.
        winner: token that sparse alignment takes, `[B]`; None for other reductions and methods.
        condenser: attention of the condenser's last block, `[B, T]`; None without a condenser.
        class_token: attention of the class token in the vision tower's last layer, `[B, T]`.
    """

    similarity: Tensor | None
    winner: Tensor | None
    condenser: Tensor | None
    class_token: Tensor


@torch.no_grad()
def look_at(method: CZSLMethod, predictor: Predictor, images: Tensor, columns: Tensor) -> Looks:
    """Return where a method looks for one composition in each image; no state changes.

    Args:
        method: in evaluation mode.
        predictor: the method's.
        images: `[B, 3, H, W]`, normalised.
        columns: the compositions, of `predictor.space`, `[B]`.

    Returns:
        Maps in float32, on the CPU.
    """
    columns, encoded = columns.to(images.device), predictor.encode(images)
    similarity = winner = None
    if not isinstance(method.aligner, ClassTokenAligner):
        tokens, text = predictor.compared(encoded, columns)
        units = (F.normalize(each, dim=-1) for each in (tokens, text))
        similarity = torch.einsum("btd,bd->bt", *units)
        if isinstance(method.aligner, PatchMaxAligner) and method.aligner.reduction == "max":
            winner = method.aligner.similarity(tokens, text[:, None], return_indices=True)[1][:, 0]
    attention = (predictor.attention(encoded), class_attention(method.backbone.visual, images))
    maps = (None if m is None else m.float().cpu() for m in (similarity, *attention))
    similarity, condenser, class_token = maps
    assert class_token is not None
    return Looks(similarity, None if winner is None else winner.cpu(), condenser, class_token)


def class_attention(visual: VisionTower, images: Tensor) -> Tensor:
    """Return the attention of the class token in the last layer, mean over heads.

    Args:
        visual: the vision tower.
        images: `[B, 3, H, W]`, normalised.

    Returns:
        `[B, T]`, rows summing to one.

    Examples:
        >>> from czsl_sac import load_backbone
        >>> visual = load_backbone("tiny").visual
        >>> class_attention(visual, torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 65])
    """
    attention = visual.transformer.resblocks[-1].get_submodule("attn")
    weights: list[Tensor] = []
    handle = attention.register_forward_pre_hook(
        lambda module, inputs: weights.append(module.first_weights(inputs[0]))
    )
    try:
        visual.states(images)
    finally:
        handle.remove()
    return weights[0]


class HeatmapWriter:
    """Draws where a method looked, one PNG file an image.

    Args:
        method: in evaluation mode.
        predictor: the method's, over the candidates.
        folder: where the pictures go; made if needed. A picture is named after its image,
            `NAME_heatmap.png`, with a number where two images share their name.
    """

    def __init__(self, method: CZSLMethod, predictor: Predictor, folder: Path) -> None:
        self.method, self.predictor, self.folder = method, predictor, folder
        self._taken: set[str] = set()

    def draw(
        self,
        paths: Sequence[Path],
        images: Tensor,
        probabilities: Tensor,
        column: int | None = None,
    ) -> list[Path]:
        """Draw a batch.

        Args:
            paths: of the images.
            images: `[B, 3, H, W]`, normalised.
            probabilities: over the candidates, `[B, C]`.
            column: composition to explain; None takes the likeliest of each image.

        Returns:
            The pictures.
        """
        if not paths:
            return []
        space = self.predictor.space
        columns = (
            probabilities.argmax(dim=1)
            if column is None
            else torch.full((len(paths),), column, dtype=torch.int64)
        )
        looks = look_at(self.method, self.predictor, images, columns)
        shown = visible(images, self.method.backbone)
        written = []
        for row, (path, index) in enumerate(zip(paths, columns.tolist(), strict=True)):
            title = f"{' '.join(space.pairs[index])}: {100 * probabilities[row, index]:.1f} %"
            if not space.seen_mask[index]:
                title += " (unseen)"
            figure = draw_looks(shown[row], looks, row, title)
            target = self.folder / self._name(path)
            write_atomically(target, partial(figure.savefig, format="png"))
            written.append(target)
        return written

    def _name(self, path: Path) -> str:
        name, number = f"{path.stem}_heatmap.png", 1
        while name.lower() in self._taken:  # some file systems do not tell A from a
            number += 1
            name = f"{path.stem}_heatmap_{number}.png"
        self._taken.add(name.lower())
        return name


def draw_looks(image: Tensor, looks: Looks, row: int, title: str) -> "Figure":
    """Return the figure of one image: as it is, and under each map that there is.

    Args:
        image: `[H, W, 3]` in [0, 1].
        looks: of a batch.
        row: of the image in the batch.
        title: above all.
    """
    from matplotlib.figure import Figure

    panels = list(panels_of(looks, row))
    figure = Figure(figsize=(2.2 * (1 + len(panels)), 2.7), dpi=110, layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes: Sequence[Axes] = figure.subplots(1, 1 + len(panels))
    for axis in axes:
        axis.set_axis_off()
        axis.imshow(image.numpy(), interpolation="bilinear")
    axes[0].set_title("image", fontsize=9)
    for axis, panel in zip(axes[1:], panels, strict=True):
        axis.set_title(panel.title, fontsize=9)
        _overlay(axis, panel.weights, image.shape[0])
        if panel.patch is not None:
            side = len(panel.weights)
            _outline(axis, panel.patch, image.shape[0] / side, side, won=panel.won)
    return figure


class Panel(NamedTuple):
    """One map over the patches.

    Attributes:
        title: in two lines.
        weights: of the patches, `[side, side]`.
        patch: to outline, counted from 0 by rows; None for none.
        won: whether sparse alignment took that patch, rather than the class token.
    """

    title: str
    weights: Tensor
    patch: int | None = None
    won: bool = False


def panels_of(looks: Looks, row: int) -> Iterator[Panel]:
    """Return the maps to draw of one image.

    Args:
        looks: of a batch.
        row: of the image in the batch.
    """
    if looks.similarity is not None:
        yield _similarity_panel(looks.similarity[row], looks.winner, row)
    for name, weights in (
        ("condenser's attention", looks.condenser),
        ("class token's attention", looks.class_token),
    ):
        if weights is not None:
            share = 100 * float(weights[row, 1:].sum())
            yield Panel(f"{name}\n{share:.0f} % on patches", _grid(weights[row]))


def _similarity_panel(values: Tensor, winners: Tensor | None, row: int) -> Panel:
    if winners is None:
        return Panel("similarity to the text\naveraged by the reduction", _grid(values))
    winner = int(winners[row])
    if winner > 0:
        title = f"sparse alignment\ntakes the patch: {values[winner]:.2f}"
        return Panel(title, _grid(values), winner - 1, won=True)
    best = int(values[1:].argmax())
    title = f"sparse alignment takes\nclass token {values[0]:.2f}, patch {values[best + 1]:.2f}"
    return Panel(title, _grid(values), best)


def _grid(tokens: Tensor) -> Tensor:
    """Patches of an image's tokens `[T]` as `[side, side]`."""
    side = round((len(tokens) - 1) ** 0.5)
    return tokens[1:].view(side, side)


def _overlay(axis: "Axes", weights: Tensor, size: int) -> None:
    low, high = weights.aminmax()
    scaled = (weights - low) / (high - low).clamp(min=1e-12)
    edges = (-0.5, size - 0.5, size - 0.5, -0.5)
    axis.imshow(
        scaled.numpy(),
        cmap="turbo",
        vmin=0,
        vmax=1,
        alpha=0.5,
        extent=edges,
        interpolation="bicubic",
    )


def _outline(axis: "Axes", patch: int, step: float, side: int, *, won: bool) -> None:
    from matplotlib.patches import Rectangle

    row, column = divmod(patch, side)
    corner = (column * step - 0.5, row * step - 0.5)
    for colour, width, style in (("black", 4, "-"), ("white", 2, "-" if won else ":")):
        box = Rectangle(
            corner, step, step, fill=False, edgecolor=colour, linewidth=width, linestyle=style
        )
        axis.add_patch(box)

"""CAILA's adapters in the vision tower: for attributes, for objects, and their mixture."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from czsl_sac.checks import check_range
from czsl_sac.clip.adapters.serial import AdapterPair, SerialAdapter, SerialBlock, with_blocks
from czsl_sac.clip.transformer import Activation, ResidualAttentionBlock, Transformer
from czsl_sac.clip.vision import VisionTower

Concept = Literal["attribute", "object"]


class Stream(NamedTuple):
    """What one concept's pass over images gives.

    Attributes:
        inner: states `[B, T, W]` that enter the first layer of the mixture.
        last: states `[B, T, W]` that the last layer gives.
    """

    inner: Tensor
    last: Tensor

    def of(self, images: Tensor) -> "Stream":
        """Return the streams of other images of the batch, by number `[B]`."""
        return Stream(self.inner[images], self.last[images])


class AdapterSet(nn.ModuleList):
    """A pair of serial adapters for each of some blocks, which one concept owns.

    Args:
        layers: how many blocks.
        width: size of a token, W.
        reduction: W / `reduction` is the size of a hidden layer.
        activation: of the tower.
    """

    def __init__(self, layers: int, width: int, reduction: int, activation: Activation) -> None:
        super().__init__(
            AdapterPair(width, reduction=reduction, activation=activation) for _ in range(layers)
        )

    def pairs(self) -> Iterator[AdapterPair]:
        """Yield the pairs, first layer to last."""
        yield from cast(Iterable[AdapterPair], self)

    def attached(self, transformer: Transformer) -> Iterator[SerialBlock]:
        """Yield the blocks of a tower's transformer with these adapters behind them."""
        blocks = cast(Iterable[ResidualAttentionBlock], transformer.resblocks)
        for block, pair in zip(blocks, self.pairs(), strict=True):
            yield SerialBlock(block, pair.attention, pair.mlp)


class MixtureAdapter(nn.Module):
    """h + mean(up(z̄), up_a(z_a), up_o(z_o)), z̄ being the mean of the hidden layers z, z_a, z_o.

    Args:
        own: the mixture's adapter, whose hidden layer is z.
        concepts: those of attribute and object in the same place.

    Examples:
        >>> adapters = [SerialAdapter(8) for _ in range(3)]
        >>> MixtureAdapter(adapters[0], adapters[1:])(torch.zeros(3, 10, 8)).shape
        torch.Size([3, 10, 8])
    """

    def __init__(self, own: SerialAdapter, concepts: Sequence[SerialAdapter]) -> None:
        super().__init__()
        self.own, self.concepts = own, nn.ModuleList(concepts)

    def forward(self, h: Tensor) -> Tensor:
        """Map tokens of both streams, `[B, 2 T, W]`, to `[B, 2 T, W]`."""
        concepts = cast(Sequence[SerialAdapter], self.concepts)
        hidden = [concept.hidden(h) for concept in concepts]
        mixed = torch.stack([self.own.hidden(h), *hidden]).mean(0)
        outs = [c.up(z) for c, z in zip(concepts, hidden, strict=True)]
        return h + torch.stack([self.own.up(mixed), *outs]).mean(0)


class ConceptAdapters(nn.Module):
    """The vision tower as attributes, as objects and as compositions see it.

    Attribute and object run the whole tower, each with adapters of its own. From `fusion_layer` on
    the states of both also run as one sequence, with the mixture of all adapters.

    Args:
        visual: the tower, used, not owned: its weights are not among the parameters here.
        activation: of the tower.
        fusion_layer: M, the first layer of the mixture, counted from 0; None takes the middle.
        reduction: W / `reduction` is the size of the adapters' hidden layers.

    Raises:
        ValueError: `fusion_layer` is not one of 1 to the last layer.
    """

    visual: VisionTower

    def __init__(
        self,
        visual: VisionTower,
        *,
        activation: Activation = "quick_gelu",
        fusion_layer: int | None = None,
        reduction: int = 4,
    ) -> None:
        super().__init__()
        object.__setattr__(self, "visual", visual)  # past nn.Module, which would register it
        layers, width = len(visual.transformer.resblocks), visual.transformer.width
        self.fusion_layer = layers // 2 if fusion_layer is None else fusion_layer
        check_range("fusion_layer", self.fusion_layer, low=1, high=layers - 1)
        self.attribute = AdapterSet(layers, width, reduction, activation)
        self.object = AdapterSet(layers, width, reduction, activation)
        self.mixture = AdapterSet(layers - self.fusion_layer, width, reduction, activation)

    def stream(self, images: Tensor, concept: Concept) -> Stream:
        """Return what the whole tower gives with the adapters of attribute or object.

        Args:
            images: `[B, 3, H, W]`, normalised.
            concept: whose adapters.
        """
        layers = [self.fusion_layer - 1, len(self.attribute) - 1]
        return Stream(*self._states(images, concept, layers))

    def inner(self, images: Tensor, concept: Concept) -> Tensor:
        """Return the `inner` of a stream alone, `[B, T, W]`; the arguments are its own."""
        return self._states(images, concept, [self.fusion_layer - 1])[0]

    def mix(self, attribute: Tensor, object_: Tensor) -> Tensor:
        """Return the composition's states: those of both streams after the mixture, averaged.

        Args:
            attribute: inner states of the attribute's stream, `[B, T, W]`.
            object_: inner states of the object's stream, `[B, T, W]`.

        Returns:
            `[B, T, W]`: for the class token what was published, for a patch likewise.
        """
        transformer, first = self.visual.transformer, self.fusion_layer
        x = torch.cat([attribute, object_], dim=1)
        blocks = cast(Sequence[ResidualAttentionBlock], transformer.resblocks)[first:]
        concepts = (list(s.pairs())[first:] for s in (self.attribute, self.object))
        for block, own, a, o in zip(blocks, self.mixture.pairs(), *concepts, strict=True):
            behind_attention = MixtureAdapter(own.attention, [a.attention, o.attention])
            behind_mlp = MixtureAdapter(own.mlp, [a.mlp, o.mlp])
            x = transformer.run_block(SerialBlock(block, behind_attention, behind_mlp), x)
        return torch.stack(x.chunk(2, dim=1)).mean(0)

    def _states(self, images: Tensor, concept: Concept, layers: list[int]) -> list[Tensor]:
        adapters = self.attribute if concept == "attribute" else self.object
        tower = with_blocks(self.visual, adapters.attached(self.visual.transformer))
        return tower.layer_states(images, layers)

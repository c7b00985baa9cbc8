"""MSCI: three branches whose texts meet the first vision layers, then the last."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn

from czsl_sac.checks import check_range
from czsl_sac.functional.fusion import PathProbabilities
from czsl_sac.functional.precision import at_least_float32
from czsl_sac.methods.disentangler import Disentangler
from czsl_sac.methods.msci.options import MSCIOptions
from czsl_sac.methods.msci.staged_interaction import LayerAggregator, StagedInteraction
from czsl_sac.methods.traction import TractedBranches


class LeveledTokens(NamedTuple):
    """An image's tokens in the joint space, `[B, T, D]` each, the class token first.

    Attributes:
        tokens: as the last vision layer leaves them.
        low: of the first vision layers, joined.
        high: of the last vision layers, joined.
    """

    tokens: Tensor
    low: Tensor
    high: Tensor


class MSCI(TractedBranches):
    """Multi-stage cross-modal interaction.

    Wang et al., "MSCI: Addressing CLIP's Inherent Limitations for Compositional Zero-Shot
    Learning" (IJCAI 2025). Troika's three branches and disentanglers; in place of its traction two
    stages, in which the texts attend to tokens of the first vision layers, then to those of the
    last, all mapped to the joint space. The adapters of the vision tower are added to the backbone:
    `apply_adaptformer(backbone.visual)`.

    `alignment="patch_max"` does what it does in Troika: the disentanglers run on every token, and
    each text meets the best one.

    Raises:
        ValueError: the tower has fewer layers than the options ask for.

    Examples:
        >>> from czsl_sac import CompositionSpace, load_backbone
        >>> space = CompositionSpace.closed_world([("red", "cat"), ("blue", "star")])
        >>> model = MSCI(load_backbone("tiny").requires_grad_(False), space)
        >>> images = torch.zeros(2, 3, 64, 64)
        >>> sorted(model(images, torch.tensor([0, 1]), stage="train"))
        ['attribute', 'composition', 'object', 'total']
    """

    Options = MSCIOptions
    options: MSCIOptions

    def make_parts(self) -> None:
        """Make prompts, disentanglers and the two stages."""
        super().make_parts()
        options, dim = self.options, self.backbone.embed_dim
        layers = self.backbone.config.vision_layers
        usual = max(1, layers // 6)
        low = usual if options.low_layers is None else options.low_layers
        high = usual if options.high_layers is None else options.high_layers
        check_range("low_layers", low, low=1, high=layers)
        check_range("high_layers", high, low=1, high=layers)
        self.low_layers, self.high_layers = range(low), range(layers - high, layers)
        self.disentanglers = nn.ModuleList(Disentangler(dim) for _ in ("attribute", "object"))
        self.join_low = LayerAggregator(low, dim, options.stage_dropout)
        self.join_high = LayerAggregator(high, dim, options.stage_dropout)
        self.interaction = StagedInteraction(
            dim, options.stage_layers, dropout=options.stage_dropout
        )

    def encode(self, images: Tensor) -> LeveledTokens:
        """Return the tokens of the last vision layer, of the first and of the last ones."""
        visual = self.backbone.visual
        numbers = sorted({*self.low_layers, *self.high_layers})
        states = visual.layer_states(images, numbers)
        layers = dict(zip(numbers, map(visual.project, states), strict=True))
        return LeveledTokens(
            layers[numbers[-1]],
            self.join_low([layers[number] for number in self.low_layers]),
            self.join_high([layers[number] for number in self.high_layers]),
        )

    def tractions(self, encoded: LeveledTokens) -> list[Callable[[Tensor], Tensor]]:
        """Return the two stages as these images make them, the same for each branch."""
        context = self.interaction.keys_values(encoded.low, encoded.high)
        return [partial(self.interaction, context=context)] * 3

    def combine(self, path: PathProbabilities, pairs: Tensor) -> Tensor:
        """Return the composition's logit plus w p(a) p(o)."""
        weighed = path._replace(
            attribute=self.options.primitive_weight * at_least_float32(path.attribute)
        )
        return super().combine(weighed, pairs)

"""SAC: sparse alignment, visual adaptive condensation, and a memory bank (the whole paper)."""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from czsl_sac.blocks.condensation import VisualCondenser
from czsl_sac.blocks.memory_bank import EntropyMemoryBank
from czsl_sac.functional.alignment import feature_similarity
from czsl_sac.functional.losses import (
    alignment_loss,
    base_loss,
    composition_probabilities,
    condenser_loss,
    distillation_loss,
    total_loss,
)
from czsl_sac.methods.base import CZSLMethod, ParameterGroup
from czsl_sac.methods.parts import TextFeatures, alignment_head, soft_prompts, temperature_of
from czsl_sac.methods.sac.options import SACOptions
from czsl_sac.methods.sac.predictor import SACPredictor
from czsl_sac.space import CompositionSpace


class SAC(CZSLMethod):
    """Sparse alignment closing CLIP's modality gap, in its three stages.

    The rows of Tab. 4 are options: `alignment="cls", condense=False, bank="off"` is the baseline;
    `alignment="patch_max"` adds L_base; `condense=True` with `alpha=0` L_base^vac; `alpha > 0`
    L_kl; `bank="train"` the memory bank; and `bank="dynamic"` its update on the test stream.

    With `schedule="joint"`, one loop, L_base trains backbone and prompts and L_vac the condenser
    alone (Eq. 11 with the ownership of Alg. 1); `"staged"` is Alg. 1's two loops; `"end_to_end"`
    one loop in which nothing is detached but p_sa in Eq. 7.

    Examples:
        >>> from czsl_sac import CompositionSpace, load_backbone
        >>> space = CompositionSpace.closed_world(
        ...     train=[("red", "circle"), ("blue", "star")], test=[("red", "star")]
        ... )
        >>> model = SAC(load_backbone("tiny"), space)
        >>> images = torch.zeros(2, 3, 64, 64)
        >>> losses = model(images, torch.tensor([0, 1]), stage="joint")
        >>> sorted(losses)
        ['attribute', 'composition', 'distillation', 'object', 'total', 'vac']
        >>> model.eval().predictor(space)(images).shape
        torch.Size([2, 3])
    """

    Options = SACOptions
    memories_merge = True
    options: SACOptions

    def make_parts(self) -> None:
        """Make prompts, and the condenser where there is one."""
        options, backbone = self.options, self.backbone
        self.temperature = temperature_of(options, backbone)
        self.aligner = alignment_head(options, backbone)
        self.prompts = soft_prompts(options, backbone, self.space)
        self.condenser: VisualCondenser | None = None
        if options.condense:
            self.condenser = VisualCondenser(
                backbone.embed_dim,
                num_blocks=options.num_blocks,
                num_heads=options.num_heads,
                mlp_ratio=options.mlp_ratio,
                dropout=options.condenser_dropout,
            )
        self.memory: EntropyMemoryBank | None = None
        if options.schedule == "staged":
            self.stages = ("align", "condense") if options.condense else ("align",)
        else:
            self.stages = (options.schedule,)

    def text_features(self, pairs: Tensor) -> TextFeatures:
        """Return unit text features of `pairs` `[C, 2]` and of all attributes and objects."""
        return TextFeatures(*(F.normalize(feature, dim=-1) for feature in self.prompts(pairs)))

    def forward(self, images: Tensor, targets: Tensor, stage: str) -> dict[str, Tensor]:
        """Return the losses of Eq. 3 to 8 and their total (Eq. 11), as far as `stage` has them.

        Returns:
            Scalars: `composition`, `attribute`, `object` (Eq. 4), `vac` (Eq. 6),
            `distillation` (Eq. 7) and `total`.

        Raises:
            ValueError: the stage is not one of this schedule, or a target is unseen.
        """
        if stage not in self.stages:
            raise ValueError(f"stage is {stage!r} but must be one of {', '.join(self.stages)}.")
        labels = self.seen_targets(targets)
        truth = (labels, self.seen_pairs[labels, 0], self.seen_pairs[labels, 1])
        with torch.set_grad_enabled(torch.is_grad_enabled() and stage != "condense"):
            tokens = self.encode(images)
            text = self.text_features(self.seen_pairs)
            aligned = [self.aligner(tokens, t) for t in text]
        losses: dict[str, Tensor] = {}
        if stage != "condense":
            terms = [alignment_loss(s, y) for s, y in zip(aligned, truth, strict=True)]
            losses.update(zip(("composition", "attribute", "object"), terms, strict=True))
            losses["total"] = base_loss(*terms)
        if self.condenser is not None and stage != "align":
            if stage == "joint":
                tokens, text = tokens.detach(), TextFeatures(*(t.detach() for t in text))
            feature = self.condenser(tokens)
            condensed = [self.condensed_logits(feature, t) for t in text]
            losses["vac"] = base_loss(
                *(alignment_loss(s, y) for s, y in zip(condensed, truth, strict=True))
            )
            losses["distillation"] = distillation_loss(condensed[0], aligned[0])
            vac = condenser_loss(losses["vac"], losses["distillation"], self.options.alpha)
            losses["total"] = total_loss(losses["total"], vac) if "total" in losses else vac
        return losses

    def parameter_groups(self, stage: str) -> list[ParameterGroup]:
        """Return backbone, prompts and aligner together, the condenser by itself."""
        condenser = [] if self.condenser is None else list(self.condenser.parameters())
        own = {id(p) for p in condenser}
        base = [p for p in self.parameters() if p.requires_grad and id(p) not in own]
        groups = [
            ParameterGroup([] if stage == "condense" else base),
            ParameterGroup([] if stage == "align" else condenser, lr=self.options.condenser_lr),
        ]
        return [group for group in groups if group.parameters]

    def stage_epochs(self, stage: str) -> int | None:
        """Return `condenser_epochs` for Alg. 1's second loop."""
        return self.options.condenser_epochs if stage == "condense" else None

    def train_stage(self, stage: str) -> None:
        """Set training mode; in Alg. 1's second loop for the condenser alone."""
        self.train(stage != "condense")
        if self.condenser is not None:
            self.condenser.train()

    @torch.no_grad()
    def fill_memory(self, batches: Iterable[Tensor]) -> None:
        """Fill the bank of seen compositions from training images (Alg. 1, line 16).

        A sample goes to the composition that p_vac over the seen compositions names, as Eq. 9
        has it; its label is not looked at.
        """
        if self.options.bank == "off" or self.condenser is None:
            return
        text = self.text_features(self.seen_pairs)
        self.memory = self.new_bank(text.composition)
        for images in batches:
            feature = self.condenser(self.encode(images))
            logits = self.condensed_logits(feature, text.composition)
            self.memory.update(feature, composition_probabilities(logits, 1.0))

    def memory_state(self) -> dict[str, Tensor]:
        """Return the state of the bank that `fill_memory` filled, or nothing."""
        return {} if self.memory is None else self.memory.state_dict()

    @torch.no_grad()
    def load_memory_state(self, state: dict[str, Tensor]) -> None:
        """Take back what `memory_state` returned."""
        self.merge_memories([state])

    @torch.no_grad()
    def merge_memories(self, states: Sequence[dict[str, Tensor]]) -> None:
        """Hold what all banks hold, as one does that has seen what they saw, in their order."""
        self.memory = None
        if self.options.bank == "off" or not all(states):
            return
        text = self.text_features(self.seen_pairs).composition
        for state in states:
            bank = self.new_bank(text)
            bank.load_state_dict(state)
            self.memory = bank if self.memory is None else self.memory.merge_(bank)

    def new_bank(self, text: Tensor) -> EntropyMemoryBank:
        """Return an empty bank over the compositions whose text features are `text` `[C, D]`."""
        return EntropyMemoryBank(
            text,
            self.options.capacity,
            retrieval_temperature=self.options.retrieval_temperature,
            temperature=self.temperature,
            text_slot=self.options.text_slot,
            empty_slots=self.options.empty_slots,
        )

    def predictor(self, space: CompositionSpace, stage: str | None = None) -> "SACPredictor":
        """Return a predictor over `space`; its bank starts from what `fill_memory` stored.

        Args:
            space: the compositions to score.
            stage: None uses all three stages of SAC. During training the memory bank, which has
                no weights, is left out, and in stage `"align"` so is the condenser.
        """
        return SACPredictor(self, space, stage)

    def condensed_logits(self, feature: Tensor, text: Tensor) -> Tensor:
        """Return the condenser's logits `[B, C]` of v_q `[B, D]` and unit texts `[C, D]`."""
        return feature_similarity(feature, text) / self.temperature

"""SAC: sparse alignment, visual adaptive condensation, and a memory bank (the whole paper)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from czsl_sac.blocks.alignment import Aligner, Alignment, build_aligner
from czsl_sac.blocks.condensation import VisualCondenser
from czsl_sac.blocks.memory_bank import EmptySlots, EntropyMemoryBank, TextSlot
from czsl_sac.checks import check_choice
from czsl_sac.clip.backbone import CLIPBackbone
from czsl_sac.clip.prompts import SoftPrompts
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
from czsl_sac.methods.parts import alignment_head, soft_prompts, temperature_of
from czsl_sac.methods.sac.options import SACOptions
from czsl_sac.methods.sac.predictor import SACPredictor
from czsl_sac.space import CompositionSpace

Schedule = Literal["joint", "staged", "end_to_end"]


@dataclass(frozen=True)
class BankOptions:
    """How SAC uses its memory bank; see `czsl_sac.EntropyMemoryBank`.

    Attributes:
        capacity: N, samples kept per composition.
        retrieval_temperature: τ_mb of Eq. 10.
        text_slot: how long the text embedding stays.
        empty_slots: whether empty slots take part in retrieval.
        dynamic: update the bank on the stream of test images too (last row of Tab. 4); without,
            it holds training images alone (the row before).
    """

    capacity: int = 16
    retrieval_temperature: float = 0.1
    text_slot: TextSlot = "first_replaced"
    empty_slots: EmptySlots = "masked"
    dynamic: bool = True


class TextFeatures(NamedTuple):
    """t_c `[C, D]`, t_a `[A, D]` and t_o `[O, D]`, of unit norm."""

    composition: Tensor
    attribute: Tensor
    object: Tensor

    def detach(self) -> "TextFeatures":
        """Return the same features outside the graph."""
        return TextFeatures(*(t.detach() for t in self))


class SAC(CZSLMethod):
    """Sparse alignment closing CLIP's modality gap, in its three stages.

    The rows of Tab. 4 are options: `alignment="cls", condenser=None, bank=None` is the
    baseline; `alignment="patch_max"` adds L_base; a condenser with `alpha=0` L_base^vac;
    `alpha > 0` L_kl; `bank=BankOptions(dynamic=False)` the memory bank; and
    `bank=BankOptions()` its dynamic update.

    Args:
        backbone: CLIP, adapted (LoRA) and with `requires_grad` set as wanted.
        space: attributes, objects and compositions; the seen ones are trained on.
        alignment: `"patch_max"` (Eq. 2), `"cls"` (Eq. 1), or an alignment head.
        prompts: θ_c, θ_a and θ_o; None makes them from the backbone's own words.
        condenser: the condenser; None leaves stage II out; `"default"` makes one of 3 blocks.
        bank: options of the memory bank; None leaves stage III out.
        temperature: τ of the condenser's and the bank's softmax, and of the alignment where a
            name is given; None takes the backbone's own.
        alpha: α of Eq. 8.
        beta: β of Eq. 12.
        gamma: γ of Eq. 12.
        schedule: `"joint"`: one loop, L_base trains backbone and prompts, L_vac the condenser
            alone (Eq. 11 with the ownership of Alg. 1); `"staged"`: Alg. 1's two loops;
            `"end_to_end"`: one loop, nothing detached but p_sa in Eq. 7.
        condenser_epochs: epochs of Alg. 1's second loop; None takes the first one's.
        condenser_lr: learning rate of the condenser; None takes that of the rest.

    Raises:
        ValueError: an option is unknown or out of range, or there is a bank but no condenser.

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

    @classmethod
    def build(cls, options: SACOptions, backbone: CLIPBackbone, space: CompositionSpace) -> "SAC":
        """Return the method that options describe; the arguments are those of every method."""
        aligner = alignment_head(options, backbone)
        prompts = soft_prompts(options, backbone, space)
        condenser = bank = None
        if options.condense:
            condenser = VisualCondenser(
                backbone.embed_dim,
                num_blocks=options.num_blocks,
                num_heads=options.num_heads,
                mlp_ratio=options.mlp_ratio,
                dropout=options.condenser_dropout,
            )
        if options.bank != "off":
            bank = BankOptions(
                capacity=options.capacity,
                retrieval_temperature=options.retrieval_temperature,
                text_slot=options.text_slot,
                empty_slots=options.empty_slots,
                dynamic=options.bank == "dynamic",
            )
        return cls(
            backbone,
            space,
            alignment=aligner,
            prompts=prompts,
            condenser=condenser,
            bank=bank,
            temperature=temperature_of(options, backbone),
            alpha=options.alpha,
            beta=options.beta,
            gamma=options.gamma,
            schedule=options.schedule,
            condenser_epochs=options.condenser_epochs,
            condenser_lr=options.condenser_lr,
        )

    def __init__(
        self,
        backbone: CLIPBackbone,
        space: CompositionSpace,
        *,
        alignment: Alignment | Aligner = "patch_max",
        prompts: SoftPrompts | None = None,
        condenser: VisualCondenser | Literal["default"] | None = "default",
        bank: BankOptions | None = BankOptions(),
        temperature: float | None = None,
        alpha: float = 0.5,
        beta: float = 0.5,
        gamma: float = 0.5,
        schedule: Schedule = "joint",
        condenser_epochs: int | None = None,
        condenser_lr: float | None = None,
    ) -> None:
        super().__init__(backbone, space)
        check_choice("schedule", schedule, get_args(Schedule))
        if bank is not None and condenser is None:
            raise ValueError(
                "bank is given but condenser is None, and the bank stores condensed features: "
                "pass a condenser, or bank=None."
            )
        self.temperature = backbone.temperature if temperature is None else temperature
        self.aligner = build_aligner(alignment, self.temperature)
        self.prompts = prompts or SoftPrompts(
            backbone.text, backbone.tokenizer, space.attributes, space.objects
        )
        self.condenser = (
            VisualCondenser(backbone.embed_dim) if condenser == "default" else condenser
        )
        self.bank_options = bank
        self.memory: EntropyMemoryBank | None = None
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        self.schedule = schedule
        self.condenser_epochs, self.condenser_lr = condenser_epochs, condenser_lr
        if schedule == "staged":
            self.stages = ("align",) if self.condenser is None else ("align", "condense")
        else:
            self.stages = (schedule,)

    def text_features(self, pairs: Tensor) -> TextFeatures:
        """Return unit text features of `pairs` `[C, 2]` and of all attributes and objects."""
        return TextFeatures(*(F.normalize(feature, dim=-1) for feature in self.prompts(pairs)))

    def forward(self, images: Tensor, targets: Tensor, stage: str) -> dict[str, Tensor]:
        """Return the losses of Eq. 3 to 8 and their total (Eq. 11), as far as `stage` has them.

        Args:
            images: `[B, 3, H, W]`, normalised.
            targets: index into `space.pairs` of each image, `[B]`; seen compositions only.
            stage: one of `stages`.

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
                tokens, text = tokens.detach(), text.detach()
            feature = self.condenser(tokens)
            condensed = [self.condensed_logits(feature, t) for t in text]
            losses["vac"] = base_loss(
                *(alignment_loss(s, y) for s, y in zip(condensed, truth, strict=True))
            )
            losses["distillation"] = distillation_loss(condensed[0], aligned[0])
            vac = condenser_loss(losses["vac"], losses["distillation"], self.alpha)
            losses["total"] = total_loss(losses["total"], vac) if "total" in losses else vac
        return losses

    def parameter_groups(self, stage: str) -> list[ParameterGroup]:
        """Return backbone, prompts and aligner together, the condenser by itself."""
        condenser = [] if self.condenser is None else list(self.condenser.parameters())
        own = {id(p) for p in condenser}
        base = [p for p in self.parameters() if p.requires_grad and id(p) not in own]
        groups = [
            ParameterGroup([] if stage == "condense" else base),
            ParameterGroup([] if stage == "align" else condenser, lr=self.condenser_lr),
        ]
        return [group for group in groups if group.parameters]

    def stage_epochs(self, stage: str) -> int | None:
        """Return `condenser_epochs` for Alg. 1's second loop."""
        return self.condenser_epochs if stage == "condense" else None

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

        Args:
            batches: training images without augmentation, each `[B, 3, H, W]`.
        """
        if self.bank_options is None or self.condenser is None:
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
        if self.bank_options is None or not all(states):
            return
        text = self.text_features(self.seen_pairs).composition
        for state in states:
            bank = self.new_bank(text)
            bank.load_state_dict(state)
            self.memory = bank if self.memory is None else self.memory.merge_(bank)

    def new_bank(self, text: Tensor) -> EntropyMemoryBank:
        """Return an empty bank over the compositions whose text features are `text` `[C, D]`.

        Raises:
            ValueError: the method was made with `bank=None`.
        """
        if self.bank_options is None:
            raise ValueError("bank is None for this method: pass bank=BankOptions() to have one.")
        return EntropyMemoryBank(
            text,
            self.bank_options.capacity,
            retrieval_temperature=self.bank_options.retrieval_temperature,
            temperature=self.temperature,
            text_slot=self.bank_options.text_slot,
            empty_slots=self.bank_options.empty_slots,
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

"""LogiCZSL: Troika's losses, and how far rules about concepts are broken."""

import torch
import torch.nn.functional as F
from torch import Tensor

from czsl_sac.functional.logic import group_sum
from czsl_sac.functional.losses import alignment_loss, composition_probabilities
from czsl_sac.methods.logiczsl.concepts import Concepts, ConceptTree
from czsl_sac.methods.logiczsl.options import LogiCZSLOptions
from czsl_sac.methods.logiczsl.rules import Truths, broken_composition, broken_concepts
from czsl_sac.methods.troika.method import Troika


class LogiCZSL(Troika):
    """Troika trained to keep rules: compositions, concepts and what excludes each other.

    A re-interpretation of Wu et al., "LogiCZSL: Exploring Logic-induced Representation for
    Compositional Zero-shot Learning" (CVPR 2025), made from its abstract and from what the same
    group's public code for other tasks (LogicHOI, LogicSeg) makes of rules: neither text nor code
    of the method could be read. Training alone differs from Troika's; prediction is the same.

    The file of concepts is read when training begins: to predict, it need not be there. With
    `parents="text"` a concept's truth is the probability of its text, "a photo of ANIMAL", among
    the concepts, in the branch of its names, and it has a cross-entropy of its own; with `"sum"`
    it is the sum of its names' probabilities.

    Examples:
        >>> from czsl_sac import CompositionSpace, load_backbone
        >>> space = CompositionSpace.closed_world([("red", "cat"), ("blue", "star")])
        >>> model = LogiCZSL(load_backbone("tiny").requires_grad_(False), space, concepts="scenes")
        >>> model.train_stage("train")
        >>> losses = model(torch.zeros(2, 3, 64, 64), torch.tensor([0, 1]), stage="train")
        >>> [name for name in losses if name.startswith("rule")]
        ['rule_composition', 'rule_hierarchy', 'rule_decomposition', 'rule_exclusion']
    """

    Options = LogiCZSLOptions
    options: LogiCZSLOptions

    def make_parts(self) -> None:
        """Make Troika's parts, and keep room for the concepts."""
        super().make_parts()
        self._tree: ConceptTree | None = None
        self._concept_texts: list[Tensor] = []

    def forward(self, images: Tensor, targets: Tensor, stage: str) -> dict[str, Tensor]:
        """Return Troika's losses, how far each rule is broken, and the weighted sum.

        Returns:
            Scalars `composition`, `attribute`, `object`, `rule_...`, `parents` where there are
            concepts' texts, and `total`.

        Raises:
            FileNotFoundError: the file of concepts is not there.
            ValueError: a target is unseen, or the file of concepts is of another format.
        """
        options = self.options
        branches = self.branches(self.encode(images))
        texts = self.text_features(self.seen_pairs)
        logits = [branch(text) for branch, text in zip(branches, texts, strict=True)]
        losses = self.branch_losses(logits, targets)
        if not options.logic_weight:
            return losses
        composition, *primitives = (composition_probabilities(branch, 1.0) for branch in logits)
        rules = {
            "composition": broken_composition(
                composition, *primitives, pairs=self.seen_pairs, exponent=options.logic_exponent
            )
        }
        extra = composition.new_zeros(())
        for number, concepts in enumerate(self._concepts(images.device)):
            own, label = primitives[number], self.branch_targets(targets)[number + 1]
            parents = group_sum(own, concepts.parent, len(concepts.words))
            if options.parents == "text":
                parent_logits = branches[number + 1](self._concept_texts[number])
                extra = extra + alignment_loss(parent_logits, concepts.parent[label])
                parents = composition_probabilities(parent_logits, 1.0)
            truths = Truths(own, parents, concepts)
            for name, value in broken_concepts(truths, exponent=options.logic_exponent).items():
                rules[name] = rules.get(name, 0.0) + value
        losses |= {f"rule_{name}": value for name, value in rules.items()}
        if options.concepts is not None and options.parents == "text":
            losses["parents"] = extra
        broken = torch.stack([*rules.values()]).sum()
        losses["total"] = losses["total"] + options.logic_weight * (extra + self._ramp() * broken)
        return losses

    def _ramp(self) -> Tensor | float:
        """Return the share of the rules in this epoch."""
        if self.options.logic_ramp == 0:
            return 1.0
        return ((self.epochs_started - 1) / self.options.logic_ramp).clamp(0.0, 1.0)

    def _concepts(self, device: torch.device) -> list[Concepts]:
        """Return the concepts of attributes and of objects; none where there is no file."""
        if self.options.concepts is None:
            return []
        if self._tree is None:
            tree = ConceptTree.read(self.options.concepts, self.space)
            self._tree = ConceptTree(tree.attributes.to(device), tree.objects.to(device))
            self._concept_texts = [self._encoded(tree.attributes), self._encoded(tree.objects)]
        return [self._tree.attributes, self._tree.objects]

    @torch.no_grad()
    def _encoded(self, concepts: Concepts) -> Tensor:
        """Return a unit text of each concept, in CLIP's own words, `[G, D]`."""
        prompts = [f"a photo of {word}" for word in concepts.words]
        ids = self.backbone.tokenizer(prompts).to(self.seen_pairs.device)
        return F.normalize(self.backbone.encode_text(ids), dim=-1)

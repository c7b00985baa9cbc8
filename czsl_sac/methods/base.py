"""What a CZSL method is: a backbone and a space, losses in training, a predictor at test.

A method declares its parts; the loop, the evaluator and the checkpoints are the same for all.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from czsl_sac.blocks.alignment import Aligner
from czsl_sac.clip.backbone import CLIPBackbone
from czsl_sac.methods.options import MethodOptions
from czsl_sac.methods.predictor import ChunkedPredictor, Predictor
from czsl_sac.space import CompositionSpace

__all__ = [
    "CZSLMethod",
    "ChunkedPredictor",
    "ParameterGroup",
    "Predictor",
    "primitive_indices",
]


class ParameterGroup(NamedTuple):
    """Parameters that share a learning rate.

    Attributes:
        parameters: the parameters.
        lr: their learning rate; None takes the run's.
        weight_decay: likewise.
    """

    parameters: list[nn.Parameter]
    lr: float | None = None
    weight_decay: float | None = None


class CZSLMethod(nn.Module):
    """Base of all methods.

    A subclass names its `Options`, sets `aligner` in `make_parts`, and implements `predictor` and,
    if it is trained, `forward` (the losses). The other methods are hooks of the one training loop.

    Args:
        backbone: CLIP, already adapted (LoRA, adapters) and with `requires_grad` set.
        space: its attributes and objects define the primitives; its seen compositions are the
            classes of training.
        options: of the method, an instance of its `Options`; None takes their defaults.
        **changes: options by name, changed.

    Raises:
        ValueError: no composition of the space is seen, or an option is out of its range.
    """

    Options: ClassVar[type[MethodOptions]]
    """Its options, which also say what it is called and what it reads of an image."""

    options: Any
    """Those that it was made with."""

    stages: tuple[str, ...] = ("train",)
    """Names of the training loops that follow each other; empty for a method without training."""

    steps_differ: ClassVar[bool] = False
    """Whether the losses of a stage use other parameters in one step than in the next; several
    processes then look for the unused ones in every step, which takes time."""

    memories_merge: ClassVar[bool] = False
    """Whether `fill_memory` may see a part of the training images in each of several processes,
    since `merge_memories` puts together what they remember."""

    aligner: Aligner
    """How tokens and texts of compositions are compared."""

    seen_pairs: Tensor
    seen_position: Tensor

    def __init__(
        self,
        backbone: CLIPBackbone,
        space: CompositionSpace,
        options: MethodOptions | None = None,
        **changes: Any,
    ) -> None:
        super().__init__()
        if not bool(space.seen_mask.any()):
            raise ValueError(
                "space has no seen composition but a method learns from seen ones: "
                "pass them as seen=."
            )
        self.backbone = backbone
        self.space = space
        position = torch.full((len(space),), -1, dtype=torch.int64)
        position[space.seen_mask] = torch.arange(int(space.seen_mask.sum()))
        # Both follow from the space, which the run's configuration holds: not in the state.
        self.register_buffer("seen_pairs", space.pair_indices[space.seen_mask], persistent=False)
        self.register_buffer("seen_position", position, persistent=False)
        if options is None:
            options = getattr(self, "Options", MethodOptions)()
        self.options = replace(options, **changes) if changes else options
        self.make_parts()

    def make_parts(self) -> None:
        """Make what `options` describe: alignment head, prompts, and all else that learns."""

    @classmethod
    def build(cls, options: Any, backbone: CLIPBackbone, space: CompositionSpace) -> "CZSLMethod":
        """Return the method that options describe; a run's method comes from here.

        Args:
            options: of this method, an instance of `Options`.
            backbone: CLIP, already adapted.
            space: attributes, objects and compositions.
        """
        return cls(backbone, space, options)

    def encode(self, images: Tensor) -> Any:
        """Return what the method sees of images: the one door of training and prediction.

        Args:
            images: `[B, 3, H, W]`, normalised, or what a feature cache keeps of them.

        Returns:
            Tokens `[B, T, D]`, the class token first, unless a subclass says otherwise.
        """
        return self.backbone.encode_image(images)

    def forward(self, images: Tensor, targets: Tensor, stage: str) -> dict[str, Tensor]:
        """Return the losses of a batch; `"total"` is minimised, the others are logged.

        Args:
            images: `[B, 3, H, W]`, normalised.
            targets: index into `space.pairs` of each image, `[B]`; seen compositions only.
            stage: one of `stages`.

        Raises:
            ValueError: a target is unseen.
        """
        raise NotImplementedError

    def predictor(self, space: CompositionSpace, stage: str | None = None) -> Predictor:
        """Return a predictor over `space`, which shares this method's attributes and objects.

        Args:
            space: the compositions to score.
            stage: during training, the stage the method is in: parts that are not trained yet
                are left out. None uses all of the method.
        """
        raise NotImplementedError

    def feasibility(self, space: CompositionSpace) -> Tensor:
        """Return how plausible each composition is by what the method has learned, `[C]`.

        For `--feasibility method` in the open world; most methods have learned nothing of it.

        Args:
            space: the compositions, over the same attributes and objects.

        Raises:
            ValueError: the method does not say.
        """
        raise ValueError(
            f"feasibility is 'method' but {self.Options.label} says nothing of it: take clip, none "
            "or a file of word vectors."
        )

    def parameter_groups(self, stage: str) -> list[ParameterGroup]:
        """Return what `stage` trains: by default every parameter that requires a gradient."""
        return [ParameterGroup([p for p in self.parameters() if p.requires_grad])]

    def stage_epochs(self, stage: str) -> int | None:
        """Return how many epochs `stage` takes; None: as many as the run says."""
        return None

    def prepare(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Take in the training images before the first epoch; most methods need nothing of them.

        Args:
            batches: images without augmentation `[B, 3, H, W]`, and their targets `[B]`.
        """

    def refresh(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Look at the training images again, before each epoch; most methods need not.

        Images are read as they are asked for, so that nothing is read for a method that asks for
        none. It is in evaluation mode here.

        Args:
            batches: as for `prepare`, in the same order.
        """

    def train_stage(self, stage: str) -> None:
        """Set training mode for `stage`; called at the start of each of its epochs."""
        self.train()

    def after_step(self) -> None:
        """Do what follows each step of the optimiser, such as a moving average."""

    def fill_memory(self, batches: Iterable[Tensor]) -> None:
        """Take in what the method remembers of the training images; most remember nothing.

        Args:
            batches: training images without augmentation, each `[B, 3, H, W]`.
        """

    def memory_state(self) -> dict[str, Tensor]:
        """Return the state of that memory; empty where there is none."""
        return {}

    def merge_memories(self, states: Sequence[dict[str, Tensor]]) -> None:
        """Remember what processes do that each saw a part of the training images.

        Called where `memories_merge`, in every process.

        Args:
            states: what `memory_state` returned in each, in the order of their parts.
        """
        raise NotImplementedError

    def load_memory_state(self, state: dict[str, Tensor]) -> None:
        """Take back what `memory_state` returned.

        Args:
            state: tensors by name.
        """

    def trained_state(self) -> dict[str, Tensor]:
        """Return the tensors that training made: no frozen weight of the backbone among them."""
        frozen = {name for name, p in self.named_parameters() if not p.requires_grad}
        frozen |= {f"backbone.{name}" for name, _ in self.backbone.named_buffers()}
        frozen |= {f"memory.{name}" for name in self.memory_state()}
        return {name: value for name, value in self.state_dict().items() if name not in frozen}

    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """Take back what `trained_state` returned.

        Raises:
            ValueError: a tensor is missing, unknown, or of another shape.
        """
        own = self.trained_state()
        missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        shapes = [
            name for name in own.keys() & state.keys() if own[name].shape != state[name].shape
        ]
        for problem, names in (("lacks", missing), ("has the unknown", unknown)):
            if names:
                raise ValueError(
                    f"checkpoint {problem} tensor {names[0]!r} (and {len(names) - 1} more): "
                    "it was made by a method with other options."
                )
        if shapes:
            name = min(shapes)
            raise ValueError(
                f"checkpoint holds {name!r} of shape {tuple(state[name].shape)} but the method "
                f"expects {tuple(own[name].shape)}: it was made with other options or data."
            )
        self.load_state_dict(state, strict=False)

    def seen_targets(self, targets: Tensor) -> Tensor:
        """Return the position of each target among the seen compositions, `[B]`.

        Raises:
            ValueError: a target is not a seen composition.
        """
        positions = self.seen_position[targets]
        # On a GPU the look would wait for the card; there -1 is no class of the loss either.
        if positions.device.type == "cpu" and bool((positions < 0).any()):
            pair = self.space.pairs[int(targets[positions < 0][0])]
            raise ValueError(
                f"targets holds the unseen composition {pair} but training uses seen ones: "
                "pass the training split."
            )
        return positions


def primitive_indices(method: CZSLMethod, space: CompositionSpace) -> Tensor:
    """Return `space.pair_indices` on the method's device, checked against its primitives.

    Args:
        method: whose attribute and object tables will be indexed.
        space: the compositions to score.

    Raises:
        ValueError: the space has other attributes or objects than the method was made for.
    """
    if (space.attributes, space.objects) != (method.space.attributes, method.space.objects):
        raise ValueError(
            f"space has {len(space.attributes)} attributes and {len(space.objects)} objects that "
            "differ from those the method was made for: use a space over the same primitives."
        )
    return space.pair_indices.to(method.seen_pairs.device)

"""The dynamically updated memory bank, stored compactly."""

import math
from collections.abc import Mapping
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from czsl_sac.blocks.sample_pool import SamplePool
from czsl_sac.blocks.temperature import set_temperature, temperature_number
from czsl_sac.checks import check_choice
from czsl_sac.functional.memory import (
    EmptySlots,
    TextSlot,
    check_start,
    prediction_entropy,
    prototype_similarities,
    text_entropy,
)
from czsl_sac.functional.precision import at_least_float32, without_autocast
from czsl_sac.functional.probabilities import check_probabilities
from czsl_sac.kernels.dispatch import is_exporting

# Rows of the pool times images that a prediction handles at once: 256 MiB in float32.
_MAX_SIMILARITIES = 2**26
# Rows of half precision that are converted at once.
_MAX_ROWS = 2**14


class EntropyMemoryBank(nn.Module):
    """Predict from the most confident samples seen of each composition (Sec. 4.3, Eq. 9, 10).

    A composition has N slots. It starts from its text embedding; `update` offers it the
    samples predicted as it and keeps those of the lowest entropy; `forward` attends over
    its slots with the image as the query and compares the image with the prototype retrieved.

    What is stored is the text, `[C, D]`, and a pool of the S samples kept, `[S, D]`, with
    their inner products within each composition, `[S, N]`: memory grows with the samples, not
    with C·N·D, and so does the work. A prediction holds no prototype: v·p follows from the
    similarities of the slots and the length of p from their inner products. A composition that
    holds its text alone costs one inner product.

    The result of a stream of samples does not depend on how it is cut into batches, nor, with
    `merge_`, on how it is shared out between banks.

    All state is in buffers and in the `state_dict`; a bank loads one of any number of samples.
    `.to(dtype)` converts text and samples, never the entropies, which order the samples; the
    computation is in float32 (float64 for float64) also under autocast. Processes fill banks
    of different sizes: keep a bank out of modules whose buffers
    `DistributedDataParallel` broadcasts, and `merge_` instead.

    Args:
        text: text embeddings, `[C, D]`; l2-normalised here, dtype and device are kept.
        capacity: N, the slots of a composition, the text's included.
        retrieval_temperature: τ_mb of the softmax over the slots.
        temperature: τ of the logits. Of both, a tensor moves with the module and a parameter is
            learned.
        text_slot: `"first_replaced"`: the first sample takes the text's slot;
            `"until_full"`: the sample that finds no other slot does; `"permanent"`: none.
        empty_slots: `"masked"`: they take no part; `"zeros"`: they are zero vectors in the
            softmax, whose share of the weights shortens the prototypes (the remark at Tab. 11).
        normalize_prototypes: whether what the taken slots give is l2-normalised, as the paper's
            text has it, or taken as Eq. 10 prints it.

    Raises:
        ValueError: text is not a floating-point `[C, D]` of usable rows, a number is out of
            range or an option is unknown.

    Examples:
        >>> bank = EntropyMemoryBank(torch.eye(2), capacity=4, temperature=0.5)
        >>> image = torch.tensor([[0.6, 0.8]])
        >>> bank(image)
        tensor([[1.2000, 1.6000]])
        >>> bank.update(image, torch.tensor([[0.9, 0.1]]))
        1
        >>> bank(image)
        tensor([[2.0000, 1.6000]])
    """

    temperature: float | Tensor
    retrieval_temperature: float | Tensor
    text: Tensor  # [C, D], unit rows
    num_seen: Tensor  # [] int64: samples offered so far
    settings: Tensor  # what a saved bank must share with the one that loads it

    def __init__(
        self,
        text: Tensor,
        capacity: int,
        *,
        retrieval_temperature: float | Tensor = 0.1,
        temperature: float | Tensor = 0.01,
        text_slot: TextSlot = "first_replaced",
        empty_slots: EmptySlots = "masked",
        normalize_prototypes: bool = True,
    ) -> None:
        super().__init__()
        check_start(text, capacity, text_slot)
        check_choice("empty_slots", empty_slots, get_args(EmptySlots))
        set_temperature(self, "retrieval_temperature", retrieval_temperature)
        set_temperature(self, "temperature", temperature)
        self.capacity = capacity
        self.text_slot: TextSlot = text_slot
        self.empty_slots: EmptySlots = empty_slots
        self.normalize_prototypes = normalize_prototypes
        with torch.inference_mode(False), torch.no_grad():
            self.register_buffer("text", F.normalize(at_least_float32(text), dim=-1).to(text.dtype))
            self.register_buffer("num_seen", torch.tensor(0, device=text.device))
            settings = torch.tensor([capacity, get_args(TextSlot).index(text_slot)])
            self.register_buffer("settings", settings)
            self.pool = SamplePool(self.text, capacity)

    @property
    def num_samples(self) -> int:
        """Number of samples stored, S; a text that keeps a slot beside them isn't counted."""
        return int((self.pool.arrivals >= 0).sum())

    def counts(self) -> Tensor:
        """Return the number of samples stored of each composition, `[C]` int64."""
        samples = self.pool.classes[self.pool.arrivals >= 0]
        return samples.bincount(minlength=self.text.shape[0])

    def slots(self, composition: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return what one composition holds, in the order of arrival.

        Args:
            composition: index in [0, C).

        Returns:
            Unit vectors `[n, D]`, entropies `[n]` in nats and positions in the stream
            `[n]` int64. The text has position -1 and entropy +inf, or -inf if it is permanent.

        Raises:
            ValueError: the index lies outside [0, C).
        """
        if not 0 <= composition < self.text.shape[0]:
            raise ValueError(
                f"composition is {composition} but must lie in [0, {self.text.shape[0]}): give a "
                "column of the bank."
            )
        pool = self.pool
        rows = (pool.classes == composition).nonzero().squeeze(1)
        if len(rows) == 0:
            entropy = pool.entropies.new_tensor([text_entropy(self.text_slot)])
            return self.text[composition, None], entropy, pool.arrivals.new_tensor([-1])
        rows = rows[pool.arrivals[rows].argsort()]
        return pool.features[rows], pool.entropies[rows], pool.arrivals[rows]

    @torch.inference_mode(False)  # what is stored must outlive the caller's inference mode
    @torch.no_grad()
    def update(self, features: Tensor, probabilities: Tensor) -> int:
        """Offer samples to the compositions they are predicted as, by the rule of Eq. 9.

        The result is that of offering them one by one in batch order. A composition keeps the
        N lowest by (entropy, arrival): at equal entropies the older sample stays. Predict a
        batch, and call `backward` if there is anything to learn, before updating with it.

        Args:
            features: v_q, `[B, D]`; l2-normalised here.
            probabilities: p_vac, `[B, C]`; zero where a composition is no candidate. The
                lowest index wins at ties. Entropies are compared in float32.

        Returns:
            Number of samples that were stored in their turn, those that a later sample of the
            batch replaced included: it does not depend on the cut into batches either.

        Raises:
            ValueError: a shape does not fit, a feature is not finite, or a row of probabilities
                is none: entries negative or NaN, or a sum other than 1. The bank is then
                unchanged.
        """
        self._check_features(features)
        expected = [features.shape[0], self.text.shape[0]]
        if list(probabilities.shape) != expected:
            raise ValueError(
                f"probabilities has shape {list(probabilities.shape)} but must be {expected}: give "
                "one row per image, one column per composition of the bank."
            )
        if not bool(features.isfinite().all()):
            raise ValueError(
                "features has an entry that is NaN or infinite but must be finite, as it would "
                "stay in the bank: look for the overflow in what computed it."
            )
        check_probabilities("probabilities", probabilities)
        classes = probabilities.argmax(dim=1)
        entropies = prediction_entropy(probabilities).float()
        arrivals = self.num_seen + torch.arange(len(classes), device=classes.device)
        self._seat_text(classes)
        stored = self.pool.count_stored(classes, entropies)
        self.pool.offer(self._unit(features), classes, entropies, arrivals)
        self.num_seen = self.num_seen + len(classes)
        return stored

    def forward(self, features: Tensor) -> Tensor:
        """Return v·p^i/τ, the logits of p_mb (Eq. 10 before its softmax).

        Args:
            features: v_q, `[B, D]`; l2-normalised here. The result is differentiable in them.

        Returns:
            `[B, C]`, float32 (float64 for float64 features or bank).

        Raises:
            ValueError: the shape does not fit.
        """
        self._check_features(features)
        with without_autocast(features):
            query = self._unit(features)
            images = max(1, _MAX_SIMILARITIES // max(1, self.pool.view.classes.shape[0]))
            # an exported program is to serve every size, not those on one side of the threshold
            if is_exporting() or query.shape[0] <= images:
                return self._logits(query)
            return torch.cat([self._logits(part) for part in query.split(images)])

    def merge_(self, other: "EntropyMemoryBank") -> "EntropyMemoryBank":
        """Take in another bank's samples as if they had come after this bank's own.

        Banks filled from the parts of a stream and merged in the order of the parts hold what
        one bank holds that has seen the whole.

        Args:
            other: a bank over the same text with the same `capacity` and `text_slot`, on
                any device; it is not changed.

        Returns:
            This bank.

        Raises:
            ValueError: the banks do not fit together.
        """
        for name in ("capacity", "text_slot"):
            mine, others = getattr(self, name), getattr(other, name)
            if mine != others:
                raise ValueError(
                    f"other's {name} is {others!r} but must be {mine!r} as here: fill both banks "
                    "with the same settings."
                )
        text = other.text.to(self.text.device)
        if text.dtype != self.text.dtype or not torch.equal(text, self.text):
            raise ValueError(
                "other's text is another one but must be the same: make both banks from the same "
                "text embeddings, in the same order and dtype."
            )
        return self.adopt_(other, torch.arange(len(text), device=text.device))

    @torch.inference_mode(False)
    @torch.no_grad()
    def adopt_(self, other: "EntropyMemoryBank", compositions: Tensor) -> "EntropyMemoryBank":
        """Take in the samples of a bank over other compositions, after this bank's own.

        So a bank filled with training images of the seen compositions starts one over all
        compositions (Alg. 1, line 16).

        Args:
            other: a bank of the same D, on any device; it is not changed.
            compositions: index in this bank of each composition of the other, `[C']` int64,
                or -1 to leave its samples out.

        Returns:
            This bank.

        Raises:
            ValueError: a size or an index does not fit.

        Examples:
            >>> seen = EntropyMemoryBank(torch.eye(3)[:2], capacity=4)
            >>> seen.update(torch.eye(3)[2:], torch.tensor([[0.9, 0.1]]))
            1
            >>> EntropyMemoryBank(torch.eye(3), 4).adopt_(seen, torch.tensor([2, 0])).counts()
            tensor([0, 0, 1])
        """
        size = self.text.shape[0]
        if other.text.shape[1] != self.text.shape[1] or len(compositions) != other.text.shape[0]:
            raise ValueError(
                f"other's text has shape {list(other.text.shape)} but must be "
                f"[{len(compositions)}, {self.text.shape[1]}], one row per index given: give an "
                "index or -1 for each of its compositions, and a bank of the same D."
            )
        if not bool(((compositions >= -1) & (compositions < size)).all()):
            raise ValueError(
                f"compositions has an index outside [-1, {size}) but must not: give columns of "
                "this bank, or -1 to leave a composition out."
            )
        pool, device = other.pool, self.text.device
        target = compositions.to(pool.classes.device)[pool.classes]
        rows = ((pool.arrivals >= 0) & (target >= 0)).nonzero().squeeze(1)
        rows = rows[pool.arrivals[rows].argsort()]
        classes = target[rows].to(device)
        self._seat_text(classes)
        self.pool.offer(
            pool.features[rows].to(device),
            classes,
            pool.entropies[rows].to(device),
            pool.arrivals[rows].to(device) + self.num_seen,
        )
        self.num_seen = self.num_seen + other.num_seen.to(device)
        return self

    @torch.inference_mode(False)
    @torch.no_grad()
    def reset(self) -> None:
        """Forget all samples: every composition holds its text again."""
        self.pool.reset()
        self.num_seen = torch.zeros_like(self.num_seen)

    def extra_repr(self) -> str:
        # torch.export of torch 2.11 prints a module that it traces, whose samples have no values.
        samples = "traced" if is_exporting() else self.num_samples
        return (
            f"compositions={self.text.shape[0]}, dim={self.text.shape[1]}, "
            f"capacity={self.capacity}, "
            f"retrieval_temperature={temperature_number(self.retrieval_temperature):g}, "
            f"temperature={temperature_number(self.temperature):g}, text_slot={self.text_slot!r}, "
            f"empty_slots={self.empty_slots!r}, normalize_prototypes={self.normalize_prototypes}, "
            f"samples={samples}"
        )

    def _logits(self, query: Tensor) -> Tensor:
        pool = self.pool.view
        logits = self._alone(_inner_products(query, self.text))
        samples = pool.features[: pool.classes.shape[0]]
        similarities = _inner_products(query, samples).mT.contiguous()  # [S, B]
        classes, values = [], []
        for group in pool.groups:
            classes.append(pool.classes[group[:, 0]])
            if group.shape[1] == 1:
                values.append(self._alone(similarities[group[:, 0]]))
            else:
                values.append(self._retrieve(similarities, group))
        if classes:
            logits.index_copy_(1, torch.cat(classes), torch.cat(values).mT)
        return logits.div_(self.temperature)

    def _alone(self, similarities: Tensor) -> Tensor:
        """v·p where one slot is taken: p is what it holds, or the share that zeros leave it."""
        if self.empty_slots == "masked" or self.capacity == 1:
            return similarities
        scaled = similarities / self.retrieval_temperature
        return similarities * torch.sigmoid(scaled - math.log(self.capacity - 1))

    def _retrieve(self, similarities: Tensor, group: Tensor) -> Tensor:
        """v·p of K compositions, `[K, B]`, from v·x of all samples, `[S, B]`."""
        rows, taken = group.clamp_min(0), group >= 0
        gram, empty = None, None
        if self.normalize_prototypes:
            gram = self.pool.view.gram[rows, : group.shape[1]].to(similarities.dtype)
        if self.empty_slots == "zeros":
            empty = self.capacity - taken.sum(dim=1)
        return prototype_similarities(
            similarities[rows],
            taken,
            retrieval_temperature=self.retrieval_temperature,
            gram=gram,
            empty=empty,
        )

    def _seat_text(self, classes: Tensor) -> None:
        """Make the text of these compositions a slot like those of the samples to come."""
        if self.text_slot != "first_replaced":
            new = classes.unique()
            new = new[~torch.isin(new, self.pool.classes)]
            entropies = self.pool.entropies.new_full(new.shape, text_entropy(self.text_slot))
            self.pool.offer(self.text[new], new, entropies, torch.full_like(new, -1))

    def _unit(self, features: Tensor) -> Tensor:
        dtype = torch.promote_types(features.dtype, self.pool.view.gram.dtype)
        return F.normalize(features.to(dtype), dim=-1)

    def _check_features(self, features: Tensor) -> None:
        if features.dim() != 2 or features.shape[1] != self.text.shape[1]:
            raise ValueError(
                f"features has shape {list(features.shape)} but must be [B, {self.text.shape[1]}]: "
                "give one condensed feature per image, as long as the text embeddings."
            )

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        error_messages: list[str] = args[-1]
        saved = state_dict.get(f"{prefix}settings", self.settings).tolist()
        if saved != self.settings.tolist():
            error_messages.append(
                f"the saved bank has capacity={saved[0]} and "
                f"text_slot={get_args(TextSlot)[saved[1]]!r} but must have "
                f"capacity={self.capacity} and text_slot={self.text_slot!r} as here: make both "
                "alike."
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _inner_products(query: Tensor, rows: Tensor) -> Tensor:
    """`[B, D]` and `[R, D]` of any precision to `[B, R]` in the precision of the query."""
    if rows.dtype == query.dtype:
        return query @ rows.mT
    parts = rows.split(_MAX_ROWS)
    return torch.cat([query @ part.to(query.dtype).mT for part in parts], dim=1)

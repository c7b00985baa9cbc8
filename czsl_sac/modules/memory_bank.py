"""The dynamically updated memory bank, stored compactly."""

import math
from collections.abc import Callable, Mapping
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from czsl_sac.functional.memory import (
    EmptySlots,
    TextSlot,
    check_choice,
    check_start,
    prediction_entropy,
    text_entropy,
)

# Rows of the pool times images that a prediction handles at once: 256 MiB in float32.
_MAX_SIMILARITIES = 2**26
# Rows of text or compositions that are converted or gathered at once.
_MAX_ROWS = 2**14

_POOL = ("features", "classes", "entropies", "arrivals")


class EntropyMemoryBank(nn.Module):
    """Predict from the most confident samples seen of each composition (Sec. 4.3, Eq. 9, 10).

    A composition has N slots. It starts from its text embedding; :meth:`update` offers it the
    samples predicted as it and keeps those of the lowest entropy; :meth:`forward` attends over
    its slots with the image as the query and compares the image with the prototype retrieved.

    What is stored is the text, ``[C, D]``, and a pool of the S samples kept, ``[S, D]``, with
    their inner products within each composition, ``[S, N]``: memory grows with the samples, not
    with C·N·D, and so does the work. A prediction holds no prototype: v·p follows from the
    similarities of the slots and the length of p from their inner products. A composition that
    holds its text alone costs one inner product.

    The result of a stream of samples does not depend on how it is cut into batches, nor, with
    :meth:`merge_`, on how it is shared out between banks.

    All state is in buffers and in the ``state_dict``; a bank loads one of any number of samples.
    ``.to(dtype)`` converts text and samples, never the entropies, which order the samples; the
    computation is in float32 (float64 for float64) also under autocast. Processes fill banks
    of different sizes: keep a bank out of modules whose buffers
    ``DistributedDataParallel`` broadcasts, and :meth:`merge_` instead.

    Args:
        text: text embeddings, ``[C, D]``; l2-normalised here, dtype and device are kept.
        capacity: N, the slots of a composition, the text's included.
        retrieval_temperature: τ_mb of the softmax over the slots.
        temperature: τ of the logits.
        text_slot: ``"first_replaced"``: the first sample takes the text's slot;
            ``"until_full"``: the sample that finds no other slot does; ``"permanent"``: none.
        empty_slots: ``"masked"``: they take no part; ``"zeros"``: they are zero vectors in the
            softmax. The two differ only if the prototypes are not normalised.
        normalize_prototypes: whether p^i is l2-normalised, as the paper's text has it, or
            taken as Eq. 10 prints it.

    Raises:
        ValueError: text is not a floating-point ``[C, D]`` of usable rows, a number is out of
            range or an option is unknown.

    Example:
        >>> bank = EntropyMemoryBank(torch.eye(2), capacity=4)
        >>> image = torch.tensor([[0.6, 0.8]])
        >>> bank(image)
        tensor([[60., 80.]])
        >>> bank.update(image, torch.tensor([[0.9, 0.1]]))
        1
        >>> bank(image)
        tensor([[100.,  80.]])
    """

    text: Tensor
    features: Tensor  # [≥ S, D]: room for more behind the S rows in use
    classes: Tensor  # [S] int64
    entropies: Tensor  # [S] float32
    arrivals: Tensor  # [S] int64: position in the stream, -1 for a text that has become a slot
    num_seen: Tensor  # [] int64: samples offered so far
    gram: Tensor  # [≥ S, N]: inner products of a row with the slots of its composition
    settings: Tensor  # what a saved bank must share with the one that loads it

    def __init__(
        self,
        text: Tensor,
        capacity: int,
        *,
        retrieval_temperature: float = 0.1,
        temperature: float = 0.01,
        text_slot: TextSlot = "first_replaced",
        empty_slots: EmptySlots = "masked",
        normalize_prototypes: bool = True,
    ) -> None:
        super().__init__()
        check_start(text, capacity, text_slot)
        check_choice("empty_slots", empty_slots, EmptySlots)
        for name, value in (
            ("retrieval_temperature", retrieval_temperature),
            ("temperature", temperature),
        ):
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} is {value} but must be a positive finite number.")
        self.capacity = capacity
        self.retrieval_temperature = float(retrieval_temperature)
        self.temperature = float(temperature)
        self.text_slot: TextSlot = text_slot
        self.empty_slots: EmptySlots = empty_slots
        self.normalize_prototypes = normalize_prototypes
        # Compositions are predicted in groups of similar size, up to (1, 2, 4, 8, ..., N) slots.
        self.widths = (*(2**i for i in range((capacity - 1).bit_length())), capacity)
        with torch.inference_mode(False), torch.no_grad():
            unit = F.normalize(text.to(_at_least_float32(text.dtype)), dim=-1)
            self.register_buffer("text", unit.to(text.dtype))
            settings = torch.tensor([capacity, get_args(TextSlot).index(text_slot)])
            self.register_buffer("settings", settings)
            for name in (*_POOL, "num_seen"):
                self.register_buffer(name, None)
            for name in ("gram", *(f"group_{width}" for width in self.widths)):
                self.register_buffer(name, None, persistent=False)
            self.reset()

    @property
    def num_samples(self) -> int:
        """Number of samples stored, S; a text that has become a slot isn't counted."""
        return int((self.arrivals >= 0).sum())

    def counts(self) -> Tensor:
        """Return the number of samples stored of each composition, ``[C]`` int64."""
        return self.classes[self.arrivals >= 0].bincount(minlength=self.text.shape[0])

    def slots(self, composition: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return what one composition holds, in the order of arrival.

        Args:
            composition: index in [0, C).

        Returns:
            Unit vectors ``[n, D]``, entropies ``[n]`` in nats and positions in the stream
            ``[n]``; the text has the position -1 and, as it is always or never the first to be
            replaced, the entropy -inf or +inf.

        Raises:
            ValueError: the index lies outside [0, C).
        """
        if not 0 <= composition < self.text.shape[0]:
            raise ValueError(
                f"composition is {composition} but must lie in [0, {self.text.shape[0]})."
            )
        rows = (self.classes == composition).nonzero().squeeze(1)
        if len(rows) == 0:
            entropy = self.entropies.new_tensor([text_entropy(self.text_slot)])
            return self.text[composition, None], entropy, self.arrivals.new_tensor([-1])
        rows = rows[self.arrivals[rows].argsort()]
        return self.features[rows], self.entropies[rows], self.arrivals[rows]

    @torch.inference_mode(False)  # what is stored must outlive the caller's inference mode
    @torch.no_grad()
    def update(self, features: Tensor, probabilities: Tensor) -> int:
        """Offer samples to the compositions they are predicted as, by the rule of Eq. 9.

        The result is that of offering them one by one in batch order. A composition keeps the
        N lowest by (entropy, arrival); at a tie of the entropies, the older sample stays.
        Predict a batch, and call ``backward`` if there is anything to learn, before updating
        with it.

        Args:
            features: v_q, ``[B, D]``; l2-normalised here.
            probabilities: p_vac, ``[B, C]``; zero where a composition is not a candidate. The
                lowest index wins at ties. Entropies are compared in float32.

        Returns:
            Number of samples that were stored in their turn, those that a later sample of the
            same batch replaced included: it doesn't depend on the cut into batches either.

        Raises:
            ValueError: a shape doesn't fit, or an entry isn't finite or no probability. The
                bank is then unchanged.
        """
        self._check_features(features)
        expected = (features.shape[0], self.text.shape[0])
        if probabilities.shape != expected:
            raise ValueError(
                f"probabilities has shape {tuple(probabilities.shape)} but {expected} is "
                "expected: one row per image, one column per composition of the bank."
            )
        if not bool(features.isfinite().all()):
            raise ValueError("features has an entry that is not finite: it would stay in the bank.")
        top, classes = probabilities.max(dim=1)
        entropies = prediction_entropy(probabilities).float()
        usable = entropies.isfinite() & (top <= 1.001)
        if not bool(usable.all()):
            row = int((~usable).int().argmax())
            raise ValueError(
                f"probabilities has an entry in row {row} that is NaN or outside [0, 1]: pass "
                "the softmax of the logits, not the logits."
            )
        arrivals = self.num_seen + torch.arange(len(classes), device=classes.device)
        with torch.autocast(features.device.type, enabled=False):
            stored = self._count_stored(classes, entropies)
            self._offer(self._unit(features), classes, entropies, arrivals)
        self.num_seen = self.num_seen + len(classes)
        return stored

    def forward(self, features: Tensor) -> Tensor:
        """Return v·p^i/τ, the logits of p_mb (Eq. 10 before its softmax).

        Args:
            features: v_q, ``[B, D]``; l2-normalised here. The result is differentiable in them.

        Returns:
            ``[B, C]``, float32 (float64 for float64 features or bank).

        Raises:
            ValueError: the shape doesn't fit.
        """
        self._check_features(features)
        with torch.autocast(features.device.type, enabled=False):
            query = self._unit(features)
            images = max(1, _MAX_SIMILARITIES // max(1, self.classes.shape[0]))
            if query.shape[0] <= images:
                return self._logits(query)
            return torch.cat([self._logits(part) for part in query.split(images)])

    @torch.inference_mode(False)
    @torch.no_grad()
    def merge_(self, other: "EntropyMemoryBank") -> "EntropyMemoryBank":
        """Take in another bank's samples as if they had come after this bank's own.

        Banks filled from the parts of a stream and merged in the order of the parts hold what
        one bank holds that has seen the whole.

        Args:
            other: a bank over the same text with the same ``capacity`` and ``text_slot``, on
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
                    f"the bank to merge has {name}={others!r} but this one has {name}={mine!r}: "
                    "fill both with the same settings."
                )
        text = other.text.to(self.text.device)
        if text.dtype != self.text.dtype or not torch.equal(text, self.text):
            raise ValueError(
                "the bank to merge starts from another text: build both from the same text "
                "embeddings, in the same dtype and order."
            )
        rows = (other.arrivals >= 0).nonzero().squeeze(1)
        rows = rows[other.arrivals[rows].argsort()]
        device = self.text.device
        features, classes = other.features[rows].to(device), other.classes[rows].to(device)
        entropies, arrivals = other.entropies[rows].to(device), other.arrivals[rows].to(device)
        with torch.autocast(device.type, enabled=False):
            self._offer(features, classes, entropies, arrivals + self.num_seen)
        self.num_seen = self.num_seen + other.num_seen.to(device)
        return self

    @torch.inference_mode(False)
    @torch.no_grad()
    def reset(self) -> None:
        """Forget all samples: every composition holds its text again."""
        self._allocate(0)
        self.num_seen = torch.zeros((), dtype=torch.int64, device=self.text.device)
        self._index()

    def extra_repr(self) -> str:
        return (
            f"compositions={self.text.shape[0]}, dim={self.text.shape[1]}, "
            f"capacity={self.capacity}, retrieval_temperature={self.retrieval_temperature}, "
            f"temperature={self.temperature}, text_slot={self.text_slot!r}, "
            f"empty_slots={self.empty_slots!r}, normalize_prototypes={self.normalize_prototypes}, "
            f"samples={self.num_samples}"
        )

    def _logits(self, query: Tensor) -> Tensor:
        logits = self._alone(_inner_products(query, self.text))
        pool = _inner_products(query, self.features[: self.classes.shape[0]]).mT.contiguous()
        classes, values = [], []
        for width in self.widths:
            group = getattr(self, f"group_{width}")
            if group.shape[0] == 0:
                continue
            classes.append(self.classes[group[:, 0]])
            alone = width == 1
            values.append(self._alone(pool[group[:, 0]]) if alone else self._retrieve(pool, group))
        if classes:
            logits.index_copy_(1, torch.cat(classes), torch.cat(values).mT)
        return logits.div_(self.temperature)

    def _alone(self, similarities: Tensor) -> Tensor:
        """v·p where one slot is taken: p is what it holds, or the share that zeros leave it."""
        if self.normalize_prototypes or self.empty_slots == "masked" or self.capacity == 1:
            return similarities
        scaled = similarities / self.retrieval_temperature
        return similarities * torch.sigmoid(scaled - math.log(self.capacity - 1))

    def _retrieve(self, pool: Tensor, group: Tensor) -> Tensor:
        """v·p of K compositions, ``[K, B]``, from v·x of the pool, ``[S, B]``."""
        rows, taken = group.clamp_min(0), group >= 0
        similarities = pool[rows]  # [K, width, B]
        scaled = similarities / self.retrieval_temperature
        scaled = scaled.masked_fill(~taken.unsqueeze(2), float("-inf"))
        weights = F.softmax(scaled, dim=1)
        products = (weights * similarities).sum(dim=1)
        if self.normalize_prototypes:
            gram = self.gram[rows][:, :, : group.shape[1]].to(weights.dtype)
            squared = (weights * (gram @ weights)).sum(dim=1)  # ‖p‖² = wᵀ G w
            # |v·p| ≤ ‖p‖ since v is a unit vector: rounding must not break it where slots cancel.
            squared = torch.maximum(squared, products.detach().square()).clamp_min(1e-24)
            return products * squared.rsqrt()
        if self.empty_slots == "zeros":
            empty = self.capacity - taken.sum(dim=1, keepdim=True)
            return products * torch.sigmoid(scaled.logsumexp(dim=1) - empty.to(pool.dtype).log())
        return products

    def _count_stored(self, classes: Tensor, entropies: Tensor) -> int:
        """How many of these samples go in, each in its turn, before they are offered."""
        room = self.capacity - (self.text_slot == "permanent")
        rivals = torch.isin(self.classes, classes) & (self.arrivals >= 0)
        before_classes = torch.cat([self.classes[rivals], classes])
        before_entropies = torch.cat([self.entropies[rivals], entropies])
        positions = torch.arange(len(before_classes), device=classes.device)
        stored = 0
        # One goes in if fewer than `room` before it, of its class, are at most as uncertain.
        for part in positions[len(positions) - len(classes) :].unsqueeze(1).split(1024):
            ahead = positions < part
            ahead &= before_classes == before_classes[part]
            ahead &= before_entropies <= before_entropies[part]
            stored += int((ahead.sum(dim=1) < room).sum())
        return stored

    def _offer(
        self, features: Tensor, classes: Tensor, entropies: Tensor, arrivals: Tensor
    ) -> None:
        """Apply Eq. 9 to unit features, given in the order of arrival."""
        if self.text_slot != "first_replaced":
            self._seat_text(classes.unique())
        rivals = torch.isin(self.classes, classes).nonzero().squeeze(1)
        rivals = rivals[self.arrivals[rivals].argsort()]
        all_classes = torch.cat([self.classes[rivals], classes])
        all_entropies = torch.cat([self.entropies[rivals], entropies])
        order = all_entropies.argsort(stable=True)
        order = order[all_classes[order].argsort(stable=True)]  # by class, entropy, arrival
        sizes = torch.unique_consecutive(all_classes[order], return_counts=True)[1]
        first = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
        kept = torch.empty_like(all_classes, dtype=torch.bool)
        kept[order] = torch.arange(len(order), device=order.device) - first < self.capacity
        # Every row given up is given up for a new sample, so the pool never has a hole.
        freed = rivals[~kept[: len(rivals)]]
        chosen = kept[len(rivals) :].nonzero().squeeze(1)
        replacing, appended = chosen[: len(freed)], chosen[len(freed) :]
        self.features[freed] = features[replacing].to(self.features.dtype)
        self.classes[freed] = classes[replacing]
        self.entropies[freed] = entropies[replacing]
        self.arrivals[freed] = arrivals[replacing]
        self._append(features[appended], classes[appended], entropies[appended], arrivals[appended])
        if len(chosen):
            self._index(classes[chosen])

    def _seat_text(self, classes: Tensor) -> None:
        """Make the text of these compositions a slot among those of their samples."""
        new = classes[~torch.isin(classes, self.classes)]
        entropies = self.entropies.new_full(new.shape, text_entropy(self.text_slot))
        self._append(self.text[new], new, entropies, torch.full_like(new, -1))

    def _append(
        self, features: Tensor, classes: Tensor, entropies: Tensor, arrivals: Tensor
    ) -> None:
        start, end = len(self.classes), len(self.classes) + len(classes)
        if end > len(self.features):
            rows = max(end, 2 * len(self.features))
            for name in ("features", "gram"):
                old = getattr(self, name)
                new = old.new_zeros(rows, old.shape[1])
                new[:start] = old[:start]
                setattr(self, name, new)
        self.features[start:end] = features.to(self.features.dtype)
        self.classes = torch.cat([self.classes, classes])
        self.entropies = torch.cat([self.entropies, entropies])
        self.arrivals = torch.cat([self.arrivals, arrivals])

    def _index(self, changed: Tensor | None = None) -> None:
        """Group the compositions by size; renew the inner products of those changed (or all)."""
        order = self.classes.argsort(stable=True)
        present, sizes = torch.unique_consecutive(self.classes[order], return_counts=True)
        firsts = sizes.cumsum(0) - sizes
        narrower = 0
        for width in self.widths:
            here = (sizes > narrower) & (sizes <= width)
            steps = torch.arange(width, device=order.device)
            positions = (firsts[here].unsqueeze(1) + steps).clamp_max(len(order) - 1)
            # [K, width]: rows of the pool, -1 where the composition has no further one.
            group = order[positions].masked_fill(steps >= sizes[here].unsqueeze(1), -1)
            setattr(self, f"group_{width}", group)
            if width > 1:
                stale = group if changed is None else group[torch.isin(present[here], changed)]
                self._renew_gram(stale)
            narrower = width

    def _renew_gram(self, group: Tensor) -> None:
        for rows in group.split(_MAX_ROWS // group.shape[1] + 1):
            taken = rows >= 0
            slots = self.features[rows.clamp_min(0)].to(self.gram.dtype)
            self.gram[rows[taken], : rows.shape[1]] = (slots @ slots.mT)[taken]

    def _allocate(self, samples: int) -> None:
        """Replace the pool by one of this many samples, to be filled in."""
        text = self.text
        self.features = text.new_zeros(samples, text.shape[1])
        self.classes = torch.zeros(samples, dtype=torch.int64, device=text.device)
        self.entropies = torch.zeros(samples, dtype=torch.float32, device=text.device)
        self.arrivals = torch.zeros_like(self.classes)
        self.gram = text.new_zeros(samples, self.capacity, dtype=_at_least_float32(text.dtype))

    def _unit(self, features: Tensor) -> Tensor:
        dtype = torch.promote_types(features.dtype, _at_least_float32(self.text.dtype))
        return F.normalize(features.to(dtype), dim=-1)

    def _check_features(self, features: Tensor) -> None:
        if features.dim() != 2 or features.shape[1] != self.text.shape[1]:
            raise ValueError(
                f"features has shape {tuple(features.shape)} but [B, {self.text.shape[1]}] is "
                "expected: one condensed feature per image, as long as the text embeddings."
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        bits, dtype = self.entropies.view(torch.int32), self.text.dtype
        super()._apply(fn, recurse)
        self.entropies = fn(bits).view(torch.float32)  # moved, but never rounded
        if self.text.dtype != dtype:
            self.gram = self.gram.new_zeros(
                self.gram.shape, dtype=_at_least_float32(self.text.dtype)
            )
            self._index()
        return self

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}features"] = self.features[: len(self.classes)].clone()

    @torch.inference_mode(False)
    @torch.no_grad()
    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        pool = [state_dict.get(f"{prefix}{name}") for name in _POOL]
        settings = state_dict.get(f"{prefix}settings")
        if settings is not None and not torch.equal(settings.cpu(), self.settings.cpu()):
            capacity, text_slot = int(settings[0]), get_args(TextSlot)[int(settings[1])]
            error_msgs.append(
                f"the memory bank was saved with capacity={capacity}, text_slot={text_slot!r} but "
                f"this one has capacity={self.capacity}, text_slot={self.text_slot!r}: build it "
                "with the settings of the saved one."
            )
            return
        sizes = {len(values) for values in pool if values is not None}
        if len(sizes) == 1:
            self._allocate(sizes.pop())
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        self._index()


def _inner_products(query: Tensor, rows: Tensor) -> Tensor:
    """``[B, D]`` and ``[R, D]`` of any precision to ``[B, R]`` in the precision of the query."""
    if rows.dtype == query.dtype:
        return query @ rows.mT
    parts = rows.split(_MAX_ROWS)
    return torch.cat([query @ part.to(query.dtype).mT for part in parts], dim=1)


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)

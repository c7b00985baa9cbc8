"""The memory bank, written plainly: Eq. 9 (update) and Eq. 10 (prediction) on `[C, N, D]`.

Every composition has N slots of D numbers and every image its own C prototypes, so this form
is for small sizes; it is the reference that `czsl_sac.blocks.EntropyMemoryBank`, which
stores what is there and no more, is tested against.
"""

from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from czsl_sac.checks import check_choice, check_range
from czsl_sac.functional.precision import at_least_float32

TextSlot = Literal["first_replaced", "until_full", "permanent"]
EmptySlots = Literal["masked", "zeros"]


class MemorySlots(NamedTuple):
    """The slots of all compositions.

    Attributes:
        features: unit vectors, `[C, N, D]`; zeros where a slot is empty.
        entropies: T of Eq. 9 in nats, `[C, N]`; +inf (-inf if permanent) for the text.
        arrivals: position in the stream of each sample, `[C, N]` int64; -1 for the text.
        valid: which slots are taken, `[C, N]` bool.
    """

    features: Tensor
    entropies: Tensor
    arrivals: Tensor
    valid: Tensor


def prediction_entropy(probabilities: Tensor) -> Tensor:
    """Return H(p) = -Σ_c p(c) ln p(c), the confidence of Eq. 9.

    Args:
        probabilities: p, `[..., C]`; 0·ln 0 counts as 0.

    Returns:
        `[...]` in nats, between 0 and ln C; float32 (float64 for float64 inputs).

    Examples:
        >>> prediction_entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
        tensor([0.6931, 0.0000])
    """
    return torch.special.entr(at_least_float32(probabilities)).sum(dim=-1)


def start_memory(
    text: Tensor, capacity: int, *, text_slot: TextSlot = "first_replaced"
) -> MemorySlots:
    """Return the bank at its start: every composition holds its text embedding and no sample.

    Args:
        text: `[C, D]`; l2-normalised here.
        capacity: N, the number of slots per composition, the text's included.
        text_slot: as for `store_sample`.

    Returns:
        The slots, the text in slot 0 of each composition.

    Raises:
        ValueError: a shape, the capacity or `text_slot` does not fit.

    Examples:
        >>> start_memory(torch.tensor([[3.0, 4.0]]), capacity=2).features
        tensor([[[0.6000, 0.8000],
                 [0.0000, 0.0000]]])
    """
    check_start(text, capacity, text_slot)
    shape = (text.shape[0], capacity)
    features = text.new_zeros(*shape, text.shape[1])
    features[:, 0] = F.normalize(text, dim=-1)
    entropies = text.new_zeros(shape)
    entropies[:, 0] = text_entropy(text_slot)
    valid = torch.zeros(shape, dtype=torch.bool, device=text.device)
    valid[:, 0] = True
    arrivals = torch.full(shape, -1, dtype=torch.int64, device=text.device)
    return MemorySlots(features, entropies, arrivals, valid)


def store_sample(
    slots: MemorySlots,
    feature: Tensor,
    composition: int,
    entropy: float,
    arrival: int,
    *,
    text_slot: TextSlot = "first_replaced",
) -> tuple[MemorySlots, bool]:
    """Apply Eq. 9 to one sample: store it if its composition has room for its entropy.

    An empty slot takes any sample. In a full composition the slot of the highest entropy is
    replaced if the new entropy is strictly lower, the newest of several equal ones, so that
    a composition always holds the lowest by (entropy, arrival) of the samples it was offered.

    Args:
        slots: the bank; it is not changed.
        feature: v_q, `[D]`; l2-normalised here.
        composition: argmax p_vac.
        entropy: H(p_vac) in nats.
        arrival: position of the sample in the stream, increasing from 0.
        text_slot: `"first_replaced"`: the first sample takes the text's slot, later ones the
            empty slots; `"until_full"`: empty slots are taken first, then the text's;
            `"permanent"`: the text is never replaced and N - 1 slots are left for samples.

    Returns:
        The new bank, and whether the sample was stored.

    Raises:
        ValueError: `text_slot` is unknown.

    Examples:
        >>> slots = start_memory(torch.eye(2), capacity=1)
        >>> slots, stored = store_sample(slots, torch.tensor([0.0, 2.0]), 0, 0.3, arrival=0)
        >>> stored, slots.features[0].tolist()
        (True, [[0.0, 1.0]])
        >>> store_sample(slots, torch.tensor([1.0, 0.0]), 0, 0.3, arrival=1)[1]  # a tie
        False
    """
    check_choice("text_slot", text_slot, get_args(TextSlot))
    entropies, arrivals = slots.entropies[composition], slots.arrivals[composition]
    taken = slots.valid[composition]
    holds_text = taken & (entropies == float("inf"))
    if text_slot == "first_replaced" and holds_text.any():
        slot = int(holds_text.int().argmax())
    elif not taken.all():
        slot = int((~taken).int().argmax())
    else:
        highest = entropies.max()
        if not entropy < highest:
            return slots, False
        slot = int(arrivals.masked_fill(entropies != highest, -2).argmax())
    new = MemorySlots(*(values.clone() for values in slots))
    new.features[composition, slot] = F.normalize(feature, dim=-1)
    new.entropies[composition, slot] = entropy
    new.arrivals[composition, slot] = arrival
    new.valid[composition, slot] = True
    return new, True


def retrieval_weights(
    features: Tensor,
    slots: Tensor,
    valid: Tensor,
    *,
    retrieval_temperature: float | Tensor = 0.1,
    empty_slots: EmptySlots = "masked",
) -> Tensor:
    """Return softmax(v·B_iᵀ/τ_mb), what every image takes from each slot (Eq. 10, right).

    Args:
        features: v_q, `[B, D]`, as given (unit vectors in the paper).
        slots: the bank **B**, `[C, N, D]`; zeros where a slot is empty.
        valid: which slots are taken, `[C, N]` bool, at least one per composition.
        retrieval_temperature: τ_mb.
        empty_slots: `"masked"` leaves them out of the softmax; `"zeros"` lets them take
            part as zero vectors, which dilutes the weights of the others.

    Returns:
        `[B, C, N]`.

    Raises:
        ValueError: a shape does not fit, a composition is empty or `empty_slots` is unknown.

    Examples:
        >>> slots, valid = torch.eye(2).unsqueeze(0), torch.tensor([[True, False]])
        >>> retrieval_weights(torch.zeros(1, 2), slots, valid)
        tensor([[[1., 0.]]])
        >>> retrieval_weights(torch.zeros(1, 2), slots, valid, empty_slots="zeros")
        tensor([[[0.5000, 0.5000]]])
    """
    check_choice("empty_slots", empty_slots, get_args(EmptySlots))
    if slots.dim() != 3 or features.dim() != 2 or features.shape[1] != slots.shape[2]:
        raise ValueError(
            f"features has shape {list(features.shape)} and slots {list(slots.shape)} but they "
            "must be [B, D] and [C, N, D]: give vectors of one size D."
        )
    if valid.shape != slots.shape[:2]:
        raise ValueError(
            f"valid has shape {list(valid.shape)} but must be {list(slots.shape[:2])}: give one "
            "flag per slot."
        )
    similarities = torch.einsum("bd,cnd->bcn", features, slots) / retrieval_temperature
    if empty_slots == "masked":
        if not valid.any(dim=1).all():
            raise ValueError(
                "valid has a composition without a slot but each must hold its text or a sample: "
                "start from start_memory."
            )
        similarities = similarities.masked_fill(~valid, float("-inf"))
    return F.softmax(similarities, dim=-1)


def memory_logits(
    features: Tensor,
    slots: Tensor,
    valid: Tensor,
    *,
    retrieval_temperature: float | Tensor = 0.1,
    temperature: float | Tensor = 0.01,
    empty_slots: EmptySlots = "masked",
    normalize_prototypes: bool = True,
) -> Tensor:
    """Return v·p^i/τ, the logits of p_mb (Eq. 10, left, before the softmax), `[B, C]`.

    The prototype p^i is the sum of a composition's slots by their retrieval weights.

    Args:
        features: v_q, `[B, D]`; l2-normalised here.
        slots: the bank **B**, unit vectors, `[C, N, D]`; zeros where a slot is empty.
        valid: which slots are taken, `[C, N]` bool.
        retrieval_temperature: τ_mb.
        temperature: τ.
        empty_slots: as for `retrieval_weights`.
        normalize_prototypes: whether p^i is l2-normalised. Zero vectors shorten it then, too:
            by the share of the weights that they take.

    Raises:
        ValueError: as for `retrieval_weights`.

    Examples:
        >>> slots = start_memory(torch.eye(2), capacity=2)
        >>> v = torch.tensor([[3.0, 4.0]])
        >>> memory_logits(v, slots.features, slots.valid, temperature=1.0)
        tensor([[0.6000, 0.8000]])
        >>> memory_logits(v, slots.features, slots.valid, temperature=1.0, empty_slots="zeros")
        tensor([[0.5985, 0.7997]])
    """
    features = F.normalize(features, dim=-1)
    weights = retrieval_weights(
        features,
        slots,
        valid,
        retrieval_temperature=retrieval_temperature,
        empty_slots=empty_slots,
    )
    weights = weights * valid
    prototypes = torch.einsum("bcn,cnd->bcd", weights, slots)
    if normalize_prototypes:
        prototypes = F.normalize(prototypes, dim=-1) * weights.sum(dim=-1, keepdim=True)
    return torch.einsum("bd,bcd->bc", features, prototypes) / temperature


def prototype_similarities(
    similarities: Tensor,
    taken: Tensor,
    *,
    retrieval_temperature: float | Tensor = 0.1,
    gram: Tensor | None = None,
    empty: Tensor | None = None,
) -> Tensor:
    """Return v·p^i of Eq. 10 without forming p^i, from what v and the slots have in common.

    With w = softmax(a/τ_mb) over the similarities a of the slots, v·p = wᵀa and ‖p‖² = wᵀGw.

    Args:
        similarities: a, inner products of K compositions' slots with B unit vectors,
            `[K, N, B]`.
        taken: which slots are taken, `[K, N]` bool, at least one per composition.
        retrieval_temperature: τ_mb.
        gram: G, inner products of the slots with each other, `[K, N, N]`; given, p^i is
            normalised. In float32, lengths below 3e-4 drown in rounding.
        empty: number of zero vectors that take part in the softmax, `[K]`; they shorten p^i by
            the share of the weights that they take, normalised or not.

    Returns:
        `[K, B]`; with `gram` and without `empty` cosines.

    Examples:
        >>> slots, v = torch.eye(2).unsqueeze(0), torch.tensor([[1.0], [0.0]])
        >>> taken, gram = torch.ones(1, 2, dtype=torch.bool), slots @ slots.mT
        >>> prototype_similarities(slots @ v, taken, retrieval_temperature=1.0)
        tensor([[0.7311]])
        >>> prototype_similarities(slots @ v, taken, retrieval_temperature=1.0, gram=gram)
        tensor([[0.9385]])
    """
    scaled = similarities / retrieval_temperature
    scaled = scaled.masked_fill(~taken.unsqueeze(2), float("-inf"))
    weights = F.softmax(scaled, dim=1)
    products = (weights * similarities).sum(dim=1)
    if gram is not None:
        squared = (weights * (gram @ weights)).sum(dim=1)
        # |v·p| ≤ ‖p‖ for a unit v: rounding must not break that where slots cancel out.
        squared = torch.maximum(squared, products.detach().square()).clamp_min(1e-24)
        products = products * squared.rsqrt()
    if empty is not None:
        empty_share = empty.to(scaled.dtype).log().unsqueeze(1)
        products = products * torch.sigmoid(scaled.logsumexp(dim=1) - empty_share)
    return products


def text_entropy(text_slot: TextSlot) -> float:
    """Return the entropy that the text's slot counts with: +inf, or -inf if it is permanent.

    Examples:
        >>> text_entropy("until_full")
        inf
    """
    return float("-inf") if text_slot == "permanent" else float("inf")


def check_start(text: Tensor, capacity: int, text_slot: str) -> None:
    """Refuse what a bank cannot start from.

    Raises:
        ValueError: text is no usable `[C, D]`, or an option is unknown or out of range.

    Examples:
        >>> check_start(torch.ones(5, 8), 16, "first_replaced")
    """
    check_choice("text_slot", text_slot, get_args(TextSlot))
    if text.dim() != 2 or 0 in text.shape or not text.is_floating_point():
        raise ValueError(
            f"text is {text.dtype} of shape {list(text.shape)} but must be floating point [C, D]: "
            "give one text embedding per composition."
        )
    check_range("capacity", capacity, low=2 if text_slot == "permanent" else 1)
    if text.is_meta:  # of its numbers nothing is known
        return
    norms = at_least_float32(text.detach()).norm(dim=-1)
    if not bool(((norms > 0) & norms.isfinite()).all()):
        raise ValueError(
            "text has a row that is zero or not finite but every composition must have a "
            "direction: look at what made it."
        )

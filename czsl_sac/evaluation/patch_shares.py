"""How much of the work the patches do: a sparse method may look at the class token alone."""

from collections.abc import Mapping

import torch
from torch import Tensor

from czsl_sac.checks import check_range

ACTIVE = 0.5
"""Where a token's similarity counts as high, between the image's lowest (0) and highest (1)."""

FEW = 0.1
"""Share of the images, or of the attention, below which a method counts as not sparse."""


class PatchShares:
    """Gather how often a patch wins the alignment, and how much attention patches get.

    The class token takes part in the maximum of Eq. 2 and in the condenser's attention. Where it
    takes nearly all, sparse alignment compares what the class token's alignment compares.

    Examples:
        >>> shares = PatchShares()
        >>> shares.update(winners=torch.tensor([0, 3, 0, 0]), attention=torch.eye(4))
        >>> shares.compute()
        {'patch_wins': 0.25, 'patch_attention': 0.75}
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._sums = {name: torch.zeros(2, dtype=torch.float64) for name in _NAMES}

    def update(
        self,
        *,
        winners: Tensor | None = None,
        attention: Tensor | None = None,
        similarity: Tensor | None = None,
    ) -> None:
        """Take a batch of images.

        Args:
            winners: `[B]` integer, the token that the text of each image's own composition meets,
                0 for the class token: `Aligner.winners`; None where the head has no winner.
            attention: `[B, T]`, the condenser's, the class token first; None without a condenser.
            similarity: `[B, T]`, of each token with the text of the image's own composition, the
                class token first; None where the head does not compare tokens. The patches above
                `ACTIVE` of the image's range are the active ones of Fig. 4 (right), as a share of
                all tokens.

        Raises:
            ValueError: a shape does not fit, or attention holds NaN.
        """
        if winners is not None:
            if winners.ndim != 1 or winners.is_floating_point():
                raise ValueError(
                    f"winners is {winners.dtype} of shape {list(winners.shape)} but must be "
                    "integer [B]: give one token an image."
                )
            self._add("patch_wins", (winners > 0).double())
        for name, values in (("attention", attention), ("similarity", similarity)):
            if values is not None and values.ndim != 2:
                raise ValueError(
                    f"{name} has shape {list(values.shape)} but must be [B, T]: give one number an "
                    "image and token."
                )
        if attention is not None:
            rows = attention.detach().double()
            self._add("patch_attention", rows[:, 1:].sum(1) / rows.sum(1))
        if similarity is not None:
            rows = similarity.detach().double()
            low, high = rows.aminmax(dim=1, keepdim=True)
            active = (rows - low > ACTIVE * (high - low))[:, 1:].double().sum(1) / rows.shape[1]
            self._add("active_patches", active.where(rows.isfinite().all(1), torch.nan))

    def compute(self) -> dict[str, float]:
        """Return the shares of all images so far by name, in [0, 1]; those without images lack."""
        sums = {name: values.tolist() for name, values in self._sums.items()}
        return {name: total / images for name, (total, images) in sums.items() if images}

    def state(self) -> dict[str, Tensor]:
        """Return the sums over images, for `merge_state`."""
        return dict(self._sums)

    def merge_state(self, incoming: "PatchShares | Mapping[str, Tensor]") -> None:
        """Add the images of others, or the sums that `state` returned."""
        state = incoming if isinstance(incoming, Mapping) else incoming.state()
        self._sums = {name: values + state[name].cpu() for name, values in self._sums.items()}

    def _add(self, name: str, shares: Tensor) -> None:
        if bool(shares.isnan().any()):
            raise ValueError(
                f"{name.removeprefix('patch_')} holds NaN but must hold shares: look at what made "
                "it."
            )
        added = torch.tensor([float(shares.sum()), len(shares)], dtype=torch.float64)
        self._sums[name] = self._sums[name] + added


def patch_notes(shares: Mapping[str, float]) -> list[str]:
    """Return what `PatchShares.compute` found as sentences; a method that is not sparse is named.

    Examples:
        >>> for sentence in patch_notes({"patch_wins": 0.023, "patch_attention": 0.004}):
        ...     print(sentence)
        A patch wins the alignment in 2.3 % of the images, the class token in the others.
        Patches get 0.4 % of the condenser's attention.
        So this method compares what the class token alone would: it is not sparse on these images.
    """
    for name, share in shares.items():
        check_range(name, share, low=0, high=1)
    said = {name: share for name, share in shares.items() if name in _SENTENCES}
    sentences = [_SENTENCES[name].format(100 * share) for name, share in said.items()]
    if said and max(said.values()) < FEW:
        sentences.append(
            "So this method compares what the class token alone would: it is not sparse on these "
            "images."
        )
    return sentences


_SENTENCES = {
    "patch_wins": "A patch wins the alignment in {:.1f} % of the images, the class token in the "
    "others.",
    "patch_attention": "Patches get {:.1f} % of the condenser's attention.",
}

_NAMES = (*_SENTENCES, "active_patches")

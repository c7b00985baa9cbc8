"""The seen-unseen curve under a bias on unseen compositions, by either protocol."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from czsl_sac.evaluation.contest import Contest

Protocol = Literal["exact", "legacy"]
PROTOCOLS: tuple[str, ...] = get_args(Protocol)

LEGACY_BIAS = 1e3
"""The bias that the published evaluator takes for "every unseen column wins"."""
_LEGACY_MARGIN = 1e-4
_LEGACY_POINTS = 20


@dataclass(frozen=True)
class Curve:
    """Accuracies by bias, float64 `[points]` each, in the order in which the area is summed.

    Attributes:
        bias: what is added to unseen scores, not falling.
        seen: accuracy on samples of seen compositions.
        unseen: accuracy on samples of unseen compositions.
        harmonic: harmonic mean of the two, 0 where one is 0.
        ties: share of samples whose label scores exactly as much as its strongest rival of the
            same kind (legacy: as any rival, at the last bias), so that the columns' order decides.
        lost: share of samples that come out otherwise at the last bias than at an infinite one; 0
            under the exact protocol.
    """

    bias: NDArray[np.float64]
    seen: NDArray[np.float64]
    unseen: NDArray[np.float64]
    ties: float
    lost: float = 0.0

    @property
    def harmonic(self) -> NDArray[np.float64]:
        # 2 / (1/s + 1/u) rather than 2su / (s + u): the last digit is scipy.stats.hmean's.
        with np.errstate(divide="ignore"):
            return 2 / (1 / self.seen + 1 / self.unseen)

    @property
    def area(self) -> float:
        """Area under seen over unseen accuracy, by the trapezoid rule, points as they come."""
        heights = self.seen[1:] + self.seen[:-1]
        return float((np.diff(self.unseen) * heights / 2.0).sum())


def exact_curve(contest: Contest) -> Curve:
    """Compute the curve at every bias at which a prediction changes, from -inf to +inf.

    A sample's prediction flips from its best seen to its best unseen candidate where the bias
    passes d = best seen score - best unseen score; at a bias of exactly d the seen one wins. All
    samples with the same d flip together. Between two neighbouring d the curve has one point, and
    its bias is their midpoint; the first point (bias -inf) and the last (bias +inf) are the ends,
    where every prediction is seen, or unseen. A score of -inf is masked: no bias lifts it.

    Examples:
        >>> scores = {name: torch.tensor(values, dtype=torch.float64) for name, values in {
        ...     "target_score": [3, 1], "seen_rival": [1, 2], "seen_before": [-torch.inf] * 2,
        ...     "unseen_rival": [1, 0], "unseen_before": [-torch.inf] * 2, "seen_any": [3, 2],
        ... }.items()}
        >>> seen, predicted = torch.tensor([True, False]), torch.tensor([0, 0])
        >>> curve = exact_curve(Contest(target_seen=seen, predicted=predicted, **scores))
        >>> curve.bias.tolist(), curve.seen.tolist(), curve.unseen.tolist(), curve.area
        ([-inf, 1.5, inf], [1.0, 1.0, 0.0], [0.0, 1.0, 1.0], 1.0)
    """
    is_seen, score = contest.target_seen, contest.target_score
    own_rival, right = _among_own_kind(contest)
    best_seen = torch.where(is_seen, torch.maximum(score, contest.seen_rival), contest.seen_rival)
    best_unseen = torch.where(
        is_seen, contest.unseen_rival, torch.maximum(score, contest.unseen_rival)
    )
    distance = best_seen - best_unseen  # +inf where every unseen candidate is masked
    flips = distance.isfinite()
    at, which = distance[flips].unique(return_inverse=True)

    lost = torch.zeros(len(at), dtype=torch.int64)
    lost.index_add_(0, which, (right & is_seen)[flips].long())
    won = torch.zeros_like(lost)
    won.index_add_(0, which, (right & ~is_seen)[flips].long())
    start = torch.zeros(1, dtype=torch.int64)
    seen = (right & is_seen).sum() - torch.cat([start, lost.cumsum(0)])
    unseen = torch.cat([start, won.cumsum(0)])

    below, above = at[:-1], at[1:]
    middle = below + (above - below) / 2
    # A midpoint that rounds down to the lower end would lie before its flips.
    middle = torch.where(middle > below, middle, above)
    end = torch.tensor([torch.inf], dtype=torch.float64)
    points = [-end, middle, end] if len(at) else [-end]
    return Curve(
        bias=torch.cat(points).numpy(),
        seen=(seen.double() / is_seen.sum()).numpy(),
        unseen=(unseen.double() / (~is_seen).sum()).numpy(),
        ties=_share((score == own_rival) & score.isfinite()),
    )


def legacy_curve(contest: Contest) -> Curve:
    """Compute the curve as the published evaluator does, digit for digit.

    Everything is float32. The biases are the distances d = best seen score - label's score - 1e-4
    of the unseen samples that are right under a bias of 1e3, sorted, every (n // 20)-th of them;
    the best seen score is taken over all seen columns, candidates or not. The point of bias 1e3
    comes last. Equal scores, also those made equal by adding the bias (float32 resolves 6e-5 at
    1e3), go to the lowest column, where the published top-k leaves the order open.
    """
    is_seen = contest.target_seen
    score, seen_rival, seen_before, unseen_rival, unseen_before, seen_any = (
        values.float()
        for values in (
            contest.target_score,
            contest.seen_rival,
            contest.seen_before,
            contest.unseen_rival,
            contest.unseen_before,
            contest.seen_any,
        )
    )

    def lifted(bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        label = torch.where(is_seen, score, score + bias)
        rival = torch.maximum(seen_rival, unseen_rival + bias)
        before = torch.maximum(seen_before, unseen_before + bias)
        return label, rival, before

    def right(bias: Tensor) -> Tensor:
        label, rival, before = lifted(bias)
        return (label >= rival) & (label > before)

    last = torch.tensor(LEGACY_BIAS)
    winners = right(last) & ~is_seen
    distances = (seen_any[winners] - score[winners] - _LEGACY_MARGIN).sort().values
    biases = torch.cat([distances[:: legacy_step(len(distances))], last[None]])

    hits = [right(bias).float() for bias in biases]
    masked = contest.unseen_rival == -torch.inf
    at_infinity = _among_own_kind(contest)[1] & (~is_seen | masked)
    label, rival, _ = lifted(last)
    return Curve(
        bias=biases.double().numpy(),
        seen=np.array([float(hit[is_seen].mean()) for hit in hits]),
        unseen=np.array([float(hit[~is_seen].mean()) for hit in hits]),
        ties=_share((label == rival) & label.isfinite()),
        lost=_share(hits[-1].bool() != at_infinity),
    )


def _among_own_kind(contest: Contest) -> tuple[Tensor, Tensor]:
    """Return the strongest rival of the label's kind, and whether the label beats all of these."""
    is_seen, score = contest.target_seen, contest.target_score
    rival = torch.where(is_seen, contest.seen_rival, contest.unseen_rival)
    before = torch.where(is_seen, contest.seen_before, contest.unseen_before)
    return rival, (score >= rival) & (score > before)


def legacy_step(count: int) -> int:
    """Return which of `count` sorted distances the legacy protocol takes as biases: every n-th.

    Examples:
        >>> legacy_step(7), legacy_step(45)
        (1, 2)
    """
    return max(count // _LEGACY_POINTS, 1)


def _share(mask: Tensor) -> float:
    return float(mask.double().mean())

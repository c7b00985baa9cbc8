"""The evaluator of compositional zero-shot learning: seen-unseen metrics in one pass."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from czsl_sac.checks import check_choice
from czsl_sac.deprecation import keyword_options, warn_renamed
from czsl_sac.evaluation.contest import Contest, make_contest
from czsl_sac.evaluation.curve import PROTOCOLS, Protocol, exact_curve, legacy_curve
from czsl_sac.evaluation.feasibility import Feasibility
from czsl_sac.evaluation.inputs import (
    as_tensor,
    candidate_mask,
    check_scores,
    check_targets,
    check_values,
)
from czsl_sac.evaluation.result import CZSLResult
from czsl_sac.evaluation.statistics import ColumnGroups, SampleStatistics, ScoreAccumulator
from czsl_sac.space import CompositionSpace

_CURVES = {"exact": exact_curve, "legacy": legacy_curve}


class CZSLEvaluator:
    """Compute S, U, HM, AUC, attribute and object accuracy from scores, batch by batch.

    A bias is added to the scores of unseen compositions; sweeping it trades accuracy on samples of
    seen compositions for accuracy on samples of unseen ones. The evaluator sees every score once
    and keeps a few numbers a sample, so its memory does not grow with the number of compositions.

    Both protocols take the highest score (the lowest column at ties) and average over samples:

    - "exact" sweeps every bias at which a prediction changes, from -inf to +inf, in float64.
    - "legacy" gives what the evaluator of the published methods (czsl, CSP, DFSP, Troika) gives,
      digit for digit: float32, about 20 to 39 biases taken from the scores, 1e3 as the last.
      It was made for logits: scores of a scale below 1e-4 all tie once 1e3 is added in float32,
      and those above 1e3 exceed it (see `CZSLResult.bias_lost`).

    Scores must be finite; -inf alone is allowed, means "never predicted, at no bias", and may not
    stand at all seen candidates of a sample. Of columns that are no candidates nothing is read but,
    for the legacy protocol's biases, the seen ones.

    `update`, `compute`, `reset` and `merge_state` are used as in torchmetrics.

    Args:
        space: the compositions; the columns of the scores.
        protocol: "exact" or "legacy".
        candidates: compositions that may be predicted: `[C]` bool, int64 columns, or a list of
            (attribute, object); None: all. In the closed world those of the split and the seen.
        feasibility: thresholds below which unseen compositions are left out, all tried in the same
            pass; memory grows with their number.

    Raises:
        ValueError: an argument has another value than described, or the candidates hold no seen or
            no unseen composition.

    Examples:
        >>> space = CompositionSpace.closed_world(
        ...     train=[("ripe", "apple"), ("old", "pear")], test=[("old", "apple")])
        >>> space.pairs
        (('old', 'apple'), ('old', 'pear'), ('ripe', 'apple'))
        >>> evaluator = CZSLEvaluator(space)
        >>> scores = torch.tensor([[0.1, 0.2, 0.6], [0.3, 0.4, 0.1], [0.2, 0.1, 0.9]])
        >>> evaluator.update(scores, torch.tensor([0, 0, 2]))
        >>> result = evaluator.compute()
        >>> result.seen, result.unseen, result.auc, result.attribute
        (1.0, 1.0, 1.0, 0.666...)
        >>> result.curve["bias"].tolist()
        [-inf, ..., inf]
    """

    def __init__(
        self,
        space: CompositionSpace,
        *,
        protocol: Protocol = "exact",
        candidates: Tensor | Sequence[tuple[str, str]] | None = None,
        feasibility: Feasibility | None = None,
    ) -> None:
        self.space = space
        check_choice("protocol", protocol, PROTOCOLS)
        self.protocol = protocol
        self.feasibility = feasibility
        self.candidates = candidate_mask(space, candidates)
        seen = space.seen_mask
        for kind, mask in (("seen", seen), ("unseen", ~seen)):
            if not bool((mask & self.candidates).any()):
                raise ValueError(
                    f"candidates hold 0 of {int(mask.sum())} {kind} compositions of the space but "
                    "must hold one at least: seen-unseen metrics need both kinds."
                )
        self._buckets = torch.zeros(len(space), dtype=torch.int64)
        thresholds = 0
        if feasibility is not None:
            feasibility.check_space(space)
            self._buckets = feasibility.buckets.cpu()
            thresholds = len(feasibility.thresholds)
        unseen = self.candidates & ~seen
        self._groups = ColumnGroups(
            seen=_columns(seen & self.candidates),
            unseen=[_columns(unseen & (self._buckets == i)) for i in range(thresholds + 1)],
            seen_others=_columns(seen & ~self.candidates),
        )
        self.reset()

    def reset(self) -> None:
        """Forget all samples."""
        self._parts: list[SampleStatistics] = []

    def update(self, scores: Tensor | ArrayLike, targets: Tensor | ArrayLike) -> None:
        """Take the scores of a batch.

        Args:
            scores: `[B, C]` floating point, a tensor on any device, a NumPy array or lists;
                higher is better.
            targets: `[B]` integer, likewise, column of each label, every one a candidate.

        Raises:
            TypeError: `scores` is not floating point or `targets` not integer.
            ValueError: wrong shape, NaN or +inf scores, a target outside the space or no candidate.
        """
        self.update_chunks([scores], targets)

    def update_chunks(
        self, chunks: Iterable[Tensor | ArrayLike], targets: Tensor | ArrayLike
    ) -> None:
        """Take the scores of a batch in chunks of columns, so that `[B, C]` need not exist.

        Args:
            chunks: `[B, c]` each, neighbouring columns in ascending order, C in all; a generator
                can make each when it is asked for.
            targets: as for `update`.

        Raises:
            TypeError: as for `update`.
            ValueError: as for `update`.
        """
        self._parts.append(self._summary(chunks, targets))

    def summarize(
        self, chunks: Iterable[Tensor | ArrayLike], targets: Tensor | ArrayLike
    ) -> dict[str, Tensor]:
        """Return what would be kept of a batch, without keeping it.

        For several processes: each summarizes its own images, a few numbers each, the rows are
        gathered, and all `merge_state` them.

        Args:
            chunks: as for `update_chunks`.
            targets: as for `update`.

        Returns:
            CPU tensors of B rows, as `state` returns them.

        Raises:
            TypeError: as for `update`.
            ValueError: as for `update`.
        """
        return self._summary(chunks, targets).state()

    @keyword_options
    def compute(self, *, protocol: Protocol | None = None) -> CZSLResult:
        """Return the metrics of all samples so far.

        With feasibility thresholds: those at the threshold of the best AUC, the first at ties.

        Args:
            protocol: "exact" or "legacy", what is kept serves both; None: the evaluator's own.

        Raises:
            ValueError: there is no sample of a seen, or of an unseen composition.
        """
        # max keeps the first of equals.
        return max(self.compute_thresholds(protocol=protocol), key=lambda result: result.auc)

    @keyword_options
    def compute_thresholds(self, *, protocol: Protocol | None = None) -> list[CZSLResult]:
        """Return the metrics at each feasibility threshold; without thresholds, one result.

        Args:
            protocol: as for `compute`.

        Raises:
            ValueError: there is no sample of a seen, or of an unseen composition.
        """
        protocol = self.protocol if protocol is None else protocol
        check_choice("protocol", protocol, PROTOCOLS)
        statistics = self._statistics()
        target_seen = self.space.seen_mask[statistics.target]
        for kind, count in (("seen", target_seen.sum()), ("unseen", (~target_seen).sum())):
            if not count:
                raise ValueError(
                    f"the {len(self)} samples hold none of {kind} compositions but must hold one "
                    "at least: update() with the whole split first."
                )
        if self.feasibility is None:
            contest = make_contest(statistics, target_seen)
            return [self._result(contest, statistics, protocol, self.candidates, None)]
        results = []
        for index, threshold in enumerate(self.feasibility.thresholds.tolist()):
            dropped = ~self.space.seen_mask & (self._buckets <= index)
            legacy = self.feasibility.rule == "legacy"
            contest = make_contest(
                statistics,
                target_seen,
                first_group=index + 1,
                target_dropped=dropped[statistics.target],
                zeroed=_columns(dropped & self.candidates) if legacy else None,
                # The published factor of seen scores is [their feasibility, 0, ≥ threshold] + 1.
                seen_factor=2.0 if legacy and threshold <= 0 else 1.0,
            )
            left = self.candidates & ~dropped
            results.append(self._result(contest, statistics, protocol, left, threshold))
        return results

    def predictions(self) -> tuple[Tensor, Tensor]:
        """Return the column of each sample's label and of its highest score, `[n]` int64 each.

        No bias is added, as for `CZSLResult.attribute` and `object`, and no unseen composition left
        out for its feasibility.

        Raises:
            ValueError: there is no sample.
        """
        statistics = self._statistics()
        target_seen = self.space.seen_mask[statistics.target]
        return statistics.target, make_contest(statistics, target_seen).predicted

    def state(self) -> dict[str, Tensor]:
        """Return what is kept, as CPU tensors with one row a sample, to gather over processes.

        `merge_state` takes the rows of all processes, concatenated in any order: the result does
        not depend on it.

        Raises:
            ValueError: there is no sample.
        """
        return self._statistics().state()

    def merge_state(self, incoming: "CZSLEvaluator | Mapping[str, Tensor]") -> None:
        """Add the samples of another evaluator, or the rows that `state` or `summarize` returned.

        Args:
            incoming: an evaluator made alike, of another process for example, or rows, possibly
                gathered over processes; it is not changed.

        Raises:
            ValueError: the evaluator was made with another space, other candidates or another
                feasibility, an entry is missing, or the number of thresholds differs.
        """
        if isinstance(incoming, Mapping):
            self._parts.append(self._from_state(incoming))
            return
        same = (
            self.space == incoming.space
            and torch.equal(self.candidates, incoming.candidates)
            and torch.equal(self._buckets, incoming._buckets)
            and len(self._groups.unseen) == len(incoming._groups.unseen)
        )
        if not same:
            raise ValueError(
                "incoming has another space, other candidates or another feasibility but must "
                "have the same: merge evaluators made alike."
            )
        self._parts.extend(incoming._parts)

    def merge_(self, other: "CZSLEvaluator") -> "CZSLEvaluator":
        """Call `merge_state`, which is its name now."""
        warn_renamed("CZSLEvaluator.merge_", "merge_state")
        self.merge_state(other)
        return self

    def add_state(self, state: Mapping[str, Tensor]) -> None:
        """Call `merge_state`, which is its name now."""
        warn_renamed("CZSLEvaluator.add_state", "merge_state")
        self.merge_state(state)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Call `reset` and `merge_state`, which do this now."""
        warn_renamed("CZSLEvaluator.load_state", "reset and merge_state")
        self._parts = [self._from_state(state)]

    def __len__(self) -> int:
        return sum(len(part.target) for part in self._parts)

    def __repr__(self) -> str:
        thresholds = len(self._groups.unseen) - 1
        return (
            f"CZSLEvaluator(protocol={self.protocol!r}, candidates={int(self.candidates.sum())} of "
            f"{len(self.space)}, thresholds={thresholds}, samples={len(self)})"
        )

    def _summary(
        self, chunks: Iterable[Tensor | ArrayLike], targets: Tensor | ArrayLike
    ) -> SampleStatistics:
        targets = check_targets(as_tensor("targets", targets), self.candidates, self.space)
        accumulator, start = None, 0
        for chunk in chunks:
            scores = as_tensor("scores", chunk)
            check_scores(scores, len(targets))
            if accumulator is None:
                accumulator = ScoreAccumulator(self._groups, targets, scores.device)
            if start + scores.shape[1] <= len(self.space):
                accumulator.add(scores.detach(), start)
            start += scores.shape[1]
        if accumulator is None or start != len(self.space):
            raise ValueError(
                f"scores have {start} columns but must have {len(self.space)}, one a composition: "
                "give them in the order of space.pairs."
            )
        statistics = accumulator.finish()
        check_values(statistics, self.space.seen_mask[targets])
        return statistics

    def _from_state(self, state: Mapping[str, Tensor]) -> SampleStatistics:
        names = [field.name for field in fields(SampleStatistics)]
        if sorted(state) != sorted(names):
            raise ValueError(
                f"state has the entries {sorted(state)} but must have {sorted(names)}: pass what "
                "state() or summarize() returned."
            )
        statistics = SampleStatistics(**{name: state[name].cpu() for name in names})
        groups = statistics.unseen_rival.shape[1]
        if groups != len(self._groups.unseen):
            raise ValueError(
                f"state has {groups - 1} feasibility thresholds but must have "
                f"{len(self._groups.unseen) - 1} as this evaluator: make both alike."
            )
        return statistics

    def _statistics(self) -> SampleStatistics:
        if not len(self):
            raise ValueError("the evaluator holds 0 samples but must hold some: update() it first.")
        self._parts = [SampleStatistics.cat(self._parts)]
        return self._parts[0]

    def _result(
        self,
        contest: Contest,
        statistics: SampleStatistics,
        protocol: Protocol,
        candidates: Tensor,
        threshold: float | None,
    ) -> CZSLResult:
        curve = _CURVES[protocol](contest)
        harmonic = curve.harmonic
        best = int(harmonic.argmax())
        truth = self.space.pair_indices[statistics.target]
        hits = self.space.pair_indices[contest.predicted] == truth  # [n, 2]
        mean = (hits.float() if protocol == "legacy" else hits.double()).mean(0)
        recalls = [
            _recall(hits[:, side], truth[:, side], names)
            for side, names in enumerate((self.space.attributes, self.space.objects))
        ]
        return CZSLResult(
            seen=float(curve.seen.max()),
            unseen=float(curve.unseen.max()),
            hm=float(harmonic[best]),
            auc=curve.area,
            attribute=float(mean[0]),
            object=float(mean[1]),
            curve={"bias": curve.bias, "seen": curve.seen, "unseen": curve.unseen},
            bias=float(curve.bias[best]),
            protocol=protocol,
            seen_samples=int(contest.target_seen.sum()),
            unseen_samples=int((~contest.target_seen).sum()),
            ties=curve.ties,
            bias_lost=curve.lost,
            candidates=int(candidates.sum()),
            unseen_candidates=int((candidates & ~self.space.seen_mask).sum()),
            unseen_compositions=len(statistics.target[~contest.target_seen].unique()),
            threshold=threshold,
            attribute_recall=recalls[0],
            object_recall=recalls[1],
        )


def _columns(mask: Tensor) -> Tensor:
    return mask.nonzero().flatten()


def _recall(hits: Tensor, truth: Tensor, names: tuple[str, ...]) -> dict[str, float]:
    count = torch.bincount(truth, minlength=len(names))
    right = torch.bincount(truth[hits], minlength=len(names))
    return {
        name: int(k) / int(n)
        for name, k, n in zip(names, right.tolist(), count.tolist(), strict=True)
        if n
    }

"""The evaluator of compositional zero-shot learning: seen-unseen metrics in one pass."""

from collections.abc import Iterable, Sequence
from dataclasses import fields

import torch
from torch import Tensor

from czsl_sac.evaluation.contest import Contest, make_contest
from czsl_sac.evaluation.curve import Protocol, exact_curve, legacy_curve
from czsl_sac.evaluation.feasibility import Feasibility
from czsl_sac.evaluation.inputs import (
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
    """Computes S, U, HM, AUC, attribute and object accuracy from scores, batch by batch.

    A bias is added to the scores of unseen compositions; sweeping it trades accuracy on samples of
    seen compositions for accuracy on samples of unseen ones. The evaluator sees every score once
    and keeps a few numbers a sample, so its memory does not grow with the number of compositions.

    Both protocols take the highest score (the lowest column at ties) and average over samples:

    - "exact" sweeps every bias at which a prediction changes, from -inf to +inf, in float64.
    - "legacy" gives what the evaluator of the published methods (czsl, CSP, DFSP, Troika) gives,
      digit for digit: float32, about 20 to 39 biases taken from the scores, 1e3 as the last.
      It was made for logits: on scores of a scale below 1e-4, adding 1e3 in float32 makes
      everything tie (see `CZSLResult.ties`).

    Scores must be finite; -inf alone is allowed, means "never predicted, at no bias", and may not
    stand at all seen candidates of a sample. Of columns that are no candidates nothing is read but,
    for the legacy protocol's biases, the seen ones.

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
        self.protocol = _check_protocol(protocol)
        self.feasibility = feasibility
        self.candidates = candidate_mask(space, candidates)
        seen = space.seen_mask
        for kind, mask in (("seen", seen), ("unseen", ~seen)):
            if not bool((mask & self.candidates).any()):
                raise ValueError(
                    f"candidates hold no {kind} composition (of {int(mask.sum())} in the space): "
                    "seen-unseen metrics need at least one of each."
                )
        self._buckets = torch.zeros(len(space), dtype=torch.int64)
        thresholds = 0
        if feasibility is not None:
            if feasibility.scores.shape != (len(space),):
                raise ValueError(
                    f"feasibility has {len(feasibility.scores)} scores for {len(space)} "
                    "compositions: make it for this space."
                )
            if bool(feasibility.scores[seen].any()):
                raise ValueError("feasibility must be 0 at seen compositions: set it so.")
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
        """Forgets all samples."""
        self._parts: list[SampleStatistics] = []

    def update(self, scores: Tensor, targets: Tensor) -> None:
        """Takes the scores of a batch.

        Args:
            scores: `[B, C]` floating point, on any device; higher is better.
            targets: `[B]` integer, column of each label, every one a candidate.

        Raises:
            TypeError: `scores` is not floating point or `targets` not integer.
            ValueError: wrong shape, NaN or +inf scores, a target outside the space or no candidate.
        """
        self.update_chunks([scores], targets)

    def update_chunks(self, chunks: Iterable[Tensor], targets: Tensor) -> None:
        """Takes the scores of a batch in chunks of columns, so that `[B, C]` need not exist.

        Args:
            chunks: `[B, c]` each, neighbouring columns in ascending order, C in all; a generator
                can make each when it is asked for.
            targets: as for `update`.

        Raises:
            TypeError: as for `update`.
            ValueError: as for `update`.
        """
        self._parts.append(self._summary(chunks, targets))

    def summarize(self, chunks: Iterable[Tensor], targets: Tensor) -> dict[str, Tensor]:
        """Returns what would be kept of a batch, without keeping it.

        For several processes: each summarizes its own images, a few numbers each, the rows are
        gathered, and all `add_state` them.

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

    def compute(self, protocol: Protocol | None = None) -> CZSLResult:
        """Returns the metrics of all samples so far.

        With feasibility thresholds: those at the threshold of the best AUC, the first at ties.

        Args:
            protocol: another one than the evaluator's own; what is kept serves both.

        Raises:
            ValueError: there is no sample of a seen, or of an unseen composition.
        """
        # max keeps the first of equals.
        return max(self.compute_thresholds(protocol), key=lambda result: result.auc)

    def compute_thresholds(self, protocol: Protocol | None = None) -> list[CZSLResult]:
        """Returns the metrics at each feasibility threshold; without thresholds, one result.

        Args:
            protocol: another one than the evaluator's own.

        Raises:
            ValueError: there is no sample of a seen, or of an unseen composition.
        """
        protocol = self.protocol if protocol is None else _check_protocol(protocol)
        statistics = self._statistics()
        target_seen = self.space.seen_mask[statistics.target]
        for kind, count in (("seen", target_seen.sum()), ("unseen", (~target_seen).sum())):
            if not count:
                raise ValueError(
                    f"no sample of {kind} compositions among {len(self)}: seen-unseen metrics "
                    "need at least one of each; update() with the whole split first."
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
        """Returns the column of each sample's label and of its highest score, `[n]` int64 each.

        No bias is added, as for `CZSLResult.attribute` and `object`, and no unseen composition left
        out for its feasibility.

        Raises:
            ValueError: there is no sample.
        """
        statistics = self._statistics()
        target_seen = self.space.seen_mask[statistics.target]
        return statistics.target, make_contest(statistics, target_seen).predicted

    def state(self) -> dict[str, Tensor]:
        """Returns what is kept, as CPU tensors with one row a sample, to gather over processes.

        `load_state` takes the rows of all processes, concatenated in any order: the result does not
        depend on it.

        Raises:
            ValueError: there is no sample.
        """
        return self._statistics().state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Replaces what is kept by what `state` returned, possibly gathered over processes.

        Raises:
            ValueError: an entry is missing or the number of thresholds differs.
        """
        statistics = self._from_state(state)
        self._parts = [statistics]

    def add_state(self, state: dict[str, Tensor]) -> None:
        """Adds the rows that `summarize` or `state` returned, possibly gathered over processes.

        Raises:
            ValueError: as for `load_state`.
        """
        self._parts.append(self._from_state(state))

    def merge_(self, other: "CZSLEvaluator") -> "CZSLEvaluator":
        """Adds the samples of another evaluator, of another process for example.

        Raises:
            ValueError: it was made with another space, other candidates or another feasibility.
        """
        same = (
            self.space == other.space
            and torch.equal(self.candidates, other.candidates)
            and torch.equal(self._buckets, other._buckets)
            and len(self._groups.unseen) == len(other._groups.unseen)
        )
        if not same:
            raise ValueError(
                "other was made with another space, other candidates or another feasibility: "
                "merge evaluators made alike."
            )
        self._parts.extend(other._parts)
        return self

    def __len__(self) -> int:
        return sum(len(part.target) for part in self._parts)

    def __repr__(self) -> str:
        thresholds = len(self._groups.unseen) - 1
        return (
            f"CZSLEvaluator(protocol={self.protocol!r}, candidates={int(self.candidates.sum())} of "
            f"{len(self.space)}, thresholds={thresholds}, samples={len(self)})"
        )

    def _summary(self, chunks: Iterable[Tensor], targets: Tensor) -> SampleStatistics:
        targets = check_targets(targets, self.candidates, self.space)
        accumulator, start = None, 0
        for scores in chunks:
            check_scores(scores, len(targets))
            if accumulator is None:
                accumulator = ScoreAccumulator(self._groups, targets, scores.device)
            if start + scores.shape[1] <= len(self.space):
                accumulator.add(scores.detach(), start)
            start += scores.shape[1]
        if accumulator is None or start != len(self.space):
            raise ValueError(
                f"scores have {start} columns for a space of {len(self.space)} compositions: give "
                "one column for each, in the order of space.pairs."
            )
        statistics = accumulator.finish()
        check_values(statistics, self.space.seen_mask[targets])
        return statistics

    def _from_state(self, state: dict[str, Tensor]) -> SampleStatistics:
        names = [field.name for field in fields(SampleStatistics)]
        if sorted(state) != sorted(names):
            raise ValueError(f"state has the entries {sorted(state)}, expected {sorted(names)}.")
        statistics = SampleStatistics(**{name: state[name].cpu() for name in names})
        groups = statistics.unseen_rival.shape[1]
        if groups != len(self._groups.unseen):
            raise ValueError(
                f"state was made with {groups - 1} feasibility thresholds, this evaluator has "
                f"{len(self._groups.unseen) - 1}: use the same ones."
            )
        return statistics

    def _statistics(self) -> SampleStatistics:
        if not len(self):
            raise ValueError("no sample to evaluate: call update() first.")
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
            candidates=int(candidates.sum()),
            unseen_candidates=int((candidates & ~self.space.seen_mask).sum()),
            unseen_compositions=len(statistics.target[~contest.target_seen].unique()),
            threshold=threshold,
            attribute_recall=recalls[0],
            object_recall=recalls[1],
        )


def _check_protocol(protocol: str) -> Protocol:
    if protocol == "exact":
        return "exact"
    if protocol == "legacy":
        return "legacy"
    raise ValueError(f"protocol is {protocol!r}: give 'exact' or 'legacy'.")


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

"""Cases for the evaluator, and slow transcriptions of both protocols, sample by sample."""

import itertools
import math

import numpy as np
import torch
from hypothesis import strategies as st
from scipy.stats import hmean

from czsl_sac.evaluation import CZSLEvaluator
from czsl_sac.space import CompositionSpace

F32 = np.float32


def published(scores, targets, seen, candidates, pair_indices):
    """The published evaluation, written from its description; lowest column at ties."""
    scores, samples = np.asarray(scores, dtype=F32), range(len(targets))

    def predict(i, bias):
        row = scores[i].copy()
        for column in range(len(row)):
            if not seen[column]:
                row[column] = F32(row[column] + F32(bias))
            if not candidates[column]:
                row[column] = F32(-1e10)
        return int(np.argmax(row))

    def mean(hits):
        return float(F32(sum(hits)) / F32(len(hits)))

    def accuracies(bias):
        hits = [predict(i, bias) == targets[i] for i in samples]
        of_seen = [hit for hit, target in zip(hits, targets, strict=True) if seen[target]]
        of_unseen = [hit for hit, target in zip(hits, targets, strict=True) if not seen[target]]
        return mean(of_seen), mean(of_unseen)

    distances = []
    for i in samples:
        if not seen[targets[i]] and predict(i, 1e3) == targets[i]:
            best_seen = max(scores[i, column] for column in range(len(seen)) if seen[column])
            distances.append(F32(F32(best_seen - scores[i, targets[i]]) - F32(1e-4)))
    distances.sort()
    biases = [*distances[:: max(len(distances) // 20, 1)], 1e3]
    points = [accuracies(bias) for bias in biases]
    of_seen, of_unseen = np.array([p[0] for p in points]), np.array([p[1] for p in points])
    with np.errstate(divide="ignore"):
        harmonic = hmean([of_seen, of_unseen], axis=0)
    best = int(np.argmax(harmonic))
    right = [pair_indices[predict(i, 0.0)] == pair_indices[targets[i]] for i in samples]
    trapezoid = getattr(np, "trapezoid", None) or np.trapz
    return {
        "seen": max(of_seen),
        "unseen": max(of_unseen),
        "hm": harmonic[best],
        "auc": trapezoid(of_seen, x=of_unseen),
        "hm_seen": of_seen[best],
        "hm_unseen": of_unseen[best],
        "bias": biases[best],
        "attribute": mean([hit[0] for hit in right]),
        "object": mean([hit[1] for hit in right]),
    }


def brute_force(scores, targets, seen, candidates, pair_indices):
    """Predicts every sample anew between all neighbouring breakpoints, and beyond both ends."""
    scores = np.asarray(scores, dtype=np.float64)
    columns = np.arange(scores.shape[1])
    of_seen, of_unseen = columns[candidates & seen], columns[candidates & ~seen]
    with np.errstate(invalid="ignore"):
        breaks = [row[of_seen].max() - row[of_unseen].max() for row in scores]
    breaks = sorted({value for value in breaks if math.isfinite(value)})
    middles = [(a + b) / 2 for a, b in itertools.pairwise(breaks)]
    biases = [min(breaks) - 1, *middles, max(breaks) + 1] if breaks else [0.0]
    points = []
    for bias in biases:
        hits = {True: [], False: []}
        for row, target in zip(scores, targets, strict=True):
            lifted = np.where(seen, row, row + bias)
            lifted[~candidates] = -np.inf
            hits[bool(seen[target])].append(lifted.argmax() == target and lifted[target] > -np.inf)
        points.append((np.mean(hits[True]), np.mean(hits[False])))
    s, u = np.array(points).T
    harmonic = [2 * a * b / (a + b) if a + b else 0.0 for a, b in points]
    auc = sum((u[i + 1] - u[i]) * (s[i + 1] + s[i]) / 2 for i in range(len(s) - 1))
    unbiased = np.where(candidates, scores, -np.inf).argmax(1)
    right = pair_indices[unbiased] == pair_indices[np.asarray(targets)]
    return {
        "seen": s[0],
        "unseen": u[-1],
        "hm": max(harmonic),
        "auc": auc,
        "attribute": right[:, 0].mean(),
        "object": right[:, 1].mean(),
        "curve": (s, u),
    }


def make_case(seed, *, samples=60, attributes=4, objects=5, world="closed", grid=None, scale=5.0):
    """Random scores, somewhat right; `grid` rounds them, so that ties come."""
    rng = np.random.default_rng(seed)
    everything = [(f"a{i}", f"o{j}") for i in range(attributes) for j in range(objects)]
    order = rng.permutation(len(everything))
    third = len(everything) // 3
    train, val, test = (
        [everything[i] for i in order[a:b]]
        for a, b in ((0, third + 1), (third + 1, 2 * third), (2 * third, len(everything)))
    )
    space = CompositionSpace.closed_world(train, val, test)
    if world == "open":
        space = space.open_world()
        candidates = torch.ones(len(space), dtype=torch.bool)
    else:
        candidates = space.mask([*train, *test])
    allowed = torch.where(candidates)[0].numpy()
    targets = rng.choice(allowed, size=samples)
    targets[:2] = space.index(*train[0]), space.index(*test[0])
    scores = rng.normal(size=(samples, len(space))) * scale
    scores[np.arange(samples), targets] += scale * rng.normal(1.5, 1.0, size=samples)
    scores[:, space.seen_mask.numpy()] += scale  # seen columns lead, as in trained models
    if grid:
        scores = np.round(scores / grid) * grid
    return space, candidates, torch.from_numpy(scores).float(), torch.from_numpy(targets)


def reference(function, space, candidates, scores, targets):
    return function(
        scores.numpy(),
        targets.tolist(),
        space.seen_mask.numpy(),
        candidates.numpy(),
        space.pair_indices.numpy(),
    )


def evaluate(space, candidates, scores, targets, **options):
    evaluator = CZSLEvaluator(space, candidates=candidates, **options)
    evaluator.update(scores, targets)
    return evaluator.compute()


cases = st.builds(
    make_case,
    st.integers(0, 10**6),
    samples=st.integers(3, 70),
    attributes=st.integers(2, 4),
    objects=st.integers(2, 5),
    world=st.sampled_from(["closed", "open"]),
    grid=st.sampled_from([None, None, 0.5, 2.0, 8.0]),
    scale=st.sampled_from([5.0, 0.3, 1e-4]),
)


def same(one, other):
    assert one.to_dict(details=True) == other.to_dict(details=True)

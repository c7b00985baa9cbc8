"""What the evaluator refuses, and what it says."""

import math

import pytest
import torch
from evaluation_cases import evaluate

from czsl_sac.evaluation import CZSLEvaluator, Feasibility
from czsl_sac.space import CompositionSpace


class TestErrors:
    space = CompositionSpace.closed_world(
        train=[("x", "p"), ("y", "q")], test=[("x", "q"), ("y", "p")]
    )
    scores = torch.tensor([[0.4, 0.3, 0.2, 0.1]])

    def evaluator(self, **options):
        return CZSLEvaluator(self.space, **options)

    def test_protocol(self):
        with pytest.raises(ValueError, match="protocol is 'old' but must be one of exact, legacy"):
            self.evaluator(protocol="old")
        with pytest.raises(ValueError, match="protocol is 'old'"):
            self.evaluator().compute(protocol="old")

    @pytest.mark.parametrize(
        ("candidates", "message"),
        [
            ([("x", "p")], "candidates hold 0 of 2 unseen compositions of the space but"),
            ([("x", "q")], "candidates hold 0 of 2 seen compositions of the space but"),
            (torch.ones(3, dtype=torch.bool), r"mask of shape \[3\] but must be \[4\]"),
            (torch.tensor([0, 4]), "column outside 0 … 3"),
            (torch.tensor([-1]), "column outside 0 … 3"),
            (torch.ones(4), r"candidates is torch.float32 of shape \[4\] but must be a bool"),
            ([("x", "z")], r"\('x', 'z'\) is not among the 4 pairs"),
        ],
    )
    def test_candidates(self, candidates, message):
        with pytest.raises(ValueError, match=message):
            self.evaluator(candidates=candidates)

    def test_space_without_unseen_compositions(self):
        space = CompositionSpace.closed_world(train=[("x", "p")])
        with pytest.raises(ValueError, match="candidates hold 0 of 0 unseen compositions"):
            CZSLEvaluator(space)

    @pytest.mark.parametrize(
        ("scores", "targets", "error", "message"),
        [
            (torch.zeros(1, 3), [0], ValueError, "scores have 3 columns but must have 4"),
            (torch.zeros(1, 5), [0], ValueError, "scores have 5 columns but must have 4"),
            (
                torch.zeros(2, 4),
                [0],
                ValueError,
                r"scores have shape \[2, 4\] but must be \[1, C\]",
            ),
            (torch.zeros(4), [0], ValueError, r"scores have shape \[4\]"),
            (torch.zeros(1, 4, dtype=torch.int64), [0], TypeError, "scores are torch.int64"),
            (torch.zeros(1, 4), [4], ValueError, "targets hold 4 but must lie in 0 … 3"),
            (torch.zeros(1, 4), [-1], ValueError, "targets hold -1 but must lie in 0 … 3"),
            (torch.zeros(1, 4), [0.0], TypeError, "targets are torch.float32"),
            (torch.zeros(1, 4), [[0]], ValueError, r"targets have shape \[1, 1\]"),
        ],
    )
    def test_update(self, scores, targets, error, message):
        with pytest.raises(error, match=message):
            self.evaluator().update(scores, torch.tensor(targets))

    @pytest.mark.parametrize(
        ("scores", "targets", "message"),
        [
            ([["a"] * 4], [0], "scores is a list that NumPy does not read as numbers"),
            ([[0.1] * 4, [0.2]], [0, 1], "scores is a list that NumPy does not read as numbers"),
            ([[1, 2, 3, 4]], [0], "scores are torch.int64"),
            ([[0.1] * 4], [0.0], "targets are torch.float64"),
            ([[0.1] * 4], ["x"], "targets is a list that NumPy does not read as numbers"),
        ],
    )
    def test_update_with_lists(self, scores, targets, message):
        with pytest.raises(TypeError, match=message):
            self.evaluator().update(scores, targets)

    def test_chunks_must_make_up_the_space(self):
        with pytest.raises(ValueError, match="scores have 0 columns but must have 4"):
            self.evaluator().update_chunks([], torch.tensor([0]))
        with pytest.raises(ValueError, match="scores have 6 columns but must have 4"):
            self.evaluator().update_chunks([self.scores[:, :2]] * 3, torch.tensor([0]))

    @pytest.mark.parametrize("column", range(4))
    @pytest.mark.parametrize("target", range(4))
    @pytest.mark.parametrize(("value", "name"), [(math.nan, "NaN"), (math.inf, r"\+inf")])
    def test_wrong_scores(self, column, target, value, name):
        scores = self.scores.clone()
        scores[0, column] = value
        for chunks in ([scores], scores.split(1, dim=1)):
            evaluator = self.evaluator()
            with pytest.raises(ValueError, match=f"scores hold {name} in 1 of 1 samples"):
                evaluator.update_chunks(chunks, torch.tensor([target]))
            assert len(evaluator) == 0

    @pytest.mark.parametrize("target", range(4))
    def test_all_seen_candidates_masked(self, target):
        scores = self.scores.masked_fill(self.space.seen_mask, -math.inf)
        with pytest.raises(ValueError, match="all seen candidates are -inf in 1 samples"):
            self.evaluator().update(scores, torch.tensor([target]))

    def test_a_masked_unseen_label_is_never_predicted(self):
        scores = self.scores.expand(2, -1).masked_fill(~self.space.seen_mask, -math.inf)
        result = evaluate(self.space, None, scores, torch.tensor([0, 1]))
        assert (result.seen, result.unseen, result.auc, result.hm) == (1, 0, 0, 0)
        assert result.bias == -math.inf

    def test_target_that_is_no_candidate(self):
        evaluator = self.evaluator(candidates=[("x", "p"), ("y", "q"), ("x", "q")])
        with pytest.raises(ValueError, match=r"targets hold \('y', 'p'\) but must be candidates"):
            evaluator.update(self.scores, torch.tensor([self.space.index("y", "p")]))

    def test_no_sample(self):
        evaluator = self.evaluator()
        for call in (evaluator.compute, evaluator.state):
            with pytest.raises(
                ValueError, match=r"the evaluator holds 0 samples but .* update\(\) it first"
            ):
                call()
        evaluator.update(self.scores, torch.tensor([0]))
        with pytest.raises(ValueError, match="the 1 samples hold none of unseen compositions"):
            evaluator.compute()
        evaluator.reset()
        evaluator.update(self.scores, torch.tensor([1]))
        with pytest.raises(ValueError, match="the 1 samples hold none of seen compositions"):
            evaluator.compute()

    def test_merge_of_unlike_evaluators(self):
        feasibility = Feasibility(torch.tensor([0.0, 0.5, 0.2, 0.0]), torch.tensor([0.3]))
        for other in (
            CZSLEvaluator(self.space.open_world(), candidates=torch.tensor([0, 1])),
            CZSLEvaluator(self.space, feasibility=feasibility),
        ):
            with pytest.raises(ValueError, match="merge evaluators made alike"):
                self.evaluator().merge_state(other)

    def test_merge_of_unlike_rows(self):
        evaluator = self.evaluator()
        evaluator.update(self.scores, torch.tensor([0]))
        state = evaluator.state()
        feasibility = Feasibility(torch.tensor([0.0, 0.5, 0.2, 0.0]), torch.tensor([0.3]))
        with pytest.raises(ValueError, match="state has 0 feasibility thresholds but must have 1"):
            self.evaluator(feasibility=feasibility).merge_state(state)
        del state["target"]
        with pytest.raises(ValueError, match="state has the entries"):
            evaluator.merge_state(state)

    def test_feasibility_of_another_space(self):
        with pytest.raises(ValueError, match="feasibility has 3 scores but must have 4"):
            self.evaluator(feasibility=Feasibility(torch.zeros(3), torch.tensor([0.3])))
        with pytest.raises(
            ValueError, match="feasibility has scores at seen compositions but they must be 0"
        ):
            self.evaluator(feasibility=Feasibility(torch.ones(4), torch.tensor([0.3])))

"""Sparse alignment, condensation and memory bolted onto a model that knows nothing of them.

    python examples/bolt_onto_your_model.py

Part 0 is a plain CLIP classifier as anyone would write it. Parts 1 to 3 add one block of this
package each, in a few lines, and measure it: generated scenes, test split, two minutes at most.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
import torch.nn.functional as F
import tyro
from tabulate import tabulate
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

# ---- 0. Your model: a frozen CLIP with small adapters, compared by the class token ---------------


class Classifier(nn.Module):
    """CLIP's features, each plus what a small adapter learns; logits of class token and text."""

    def __init__(self, clip_text: Tensor, pairs: Tensor, temperature: float) -> None:
        super().__init__()
        dim = clip_text.shape[1]
        self.register_buffer("clip_text", F.normalize(clip_text, dim=-1))  # [C, D]
        self.register_buffer("pairs", pairs)  # [C, 2]: attribute, object
        attributes, objects = (pairs.amax(0) + 1).tolist()
        self.attribute_shift = nn.Parameter(torch.zeros(attributes, dim))
        self.object_shift = nn.Parameter(torch.zeros(objects, dim))
        self.adapter = nn.Sequential(nn.Linear(dim, 64), nn.ReLU(), nn.Linear(64, dim))
        nn.init.zeros_(self.adapter[2].weight)
        nn.init.zeros_(self.adapter[2].bias)
        self.temperature = temperature

    def image(self, tokens: Tensor) -> Tensor:  # [B, T, D] -> [B, T, D], class token first
        return tokens + self.adapter(tokens)

    def text(self) -> Tensor:  # [C, D]
        shift = self.attribute_shift[self.pairs[:, 0]] + self.object_shift[self.pairs[:, 1]]
        return self.clip_text + shift

    def forward(self, tokens: Tensor) -> Tensor:  # [B, T, D] -> [B, C]
        image = F.normalize(self.image(tokens)[:, 0], dim=-1)
        return image @ F.normalize(self.text(), dim=-1).T / self.temperature


def train(
    parameters: Sequence[nn.Parameter],
    loss: Callable[[Tensor, Tensor], Tensor],
    tokens: Tensor,
    labels: Tensor,
    epochs: int,
    name: str,
) -> None:
    """Minimise loss(tokens, labels) over batches of 64."""
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    for _ in tqdm(range(epochs), desc=f"training {name}"):
        for rows in torch.randperm(len(tokens)).split(64):
            optimizer.zero_grad()
            loss(tokens[rows], labels[rows]).backward()
            optimizer.step()


# ---- From here on this package is used -----------------------------------------------------------

from czsl_sac import (  # noqa: E402
    CZSLEvaluator,
    EntropyMemoryBank,
    PatchMaxAligner,
    Scenes,
    VisualCondenser,
    fuse_predictions,
    load_backbone,
)

# ---- 1. Sparse alignment: one line of `forward` changes ------------------------------------------


class SparseClassifier(Classifier):
    """The same weights; each text meets the token that fits it best."""

    def __init__(self, clip_text: Tensor, pairs: Tensor, temperature: float) -> None:
        super().__init__(clip_text, pairs, temperature)
        self.align = PatchMaxAligner(temperature)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.align(self.image(tokens), self.text())


# ---- 2. Condensation: one feature of all tokens, taught by the alignment -------------------------


class Condensed(nn.Module):
    """A trained sparse classifier, and a condenser that learns from its predictions."""

    def __init__(self, sparse: SparseClassifier, alpha: float = 0.5) -> None:
        super().__init__()
        self.sparse = sparse.requires_grad_(False)
        self.condense = VisualCondenser(sparse.clip_text.shape[1], num_blocks=1)
        self.alpha = alpha

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the condensed feature v_q `[B, D]` and its logits `[B, C]`."""
        feature = self.condense(self.sparse.image(tokens))
        text = F.normalize(self.sparse.text(), dim=-1)
        return feature, feature @ text.T / self.sparse.temperature

    def loss(self, tokens: Tensor, labels: Tensor, seen: Tensor) -> Tensor:
        teacher = self.sparse(tokens)[:, seen].softmax(-1)
        student = self(tokens)[1][:, seen].log_softmax(-1)
        divergence = (student.exp() * (student - teacher.log())).sum(-1).mean()
        return (1 - self.alpha) * F.nll_loss(student, labels) + self.alpha * divergence


# ---- 3. Memory: confident features of every composition, the stream's own among them -------------


class Remembering:
    """Predicts a batch by alignment, condenser and bank, then takes it into the bank."""

    def __init__(self, model: Condensed, candidates: Tensor, beta: float, gamma: float) -> None:
        self.model, self.candidates, self.beta, self.gamma = model, candidates, beta, gamma
        temperature = model.sparse.temperature
        text = model.sparse.text()[candidates]
        self.bank = EntropyMemoryBank(text, capacity=8, temperature=temperature)

    def __call__(self, tokens: Tensor) -> Tensor:
        feature, logits = self.model(tokens)
        p_sa = self.model.sparse(tokens)[:, self.candidates].softmax(-1)
        p_vac = logits[:, self.candidates].softmax(-1)
        p_bank = self.bank(feature).softmax(-1)
        self.bank.update(feature, p_vac)
        return fuse_predictions(p_sa, p_vac, p_bank, beta=self.beta, gamma=self.gamma)


# ---- Measured ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """Train the four models on generated scenes and print what each addition changes."""

    epochs: int = 10
    """Epochs of each model."""
    seeds: int = 3
    """Seeds 0, 1, ... of initialisation and order."""
    clutter: float = 0.75
    """Share of the images that their labels do not speak of, 0 to 1."""


def main(argv: list[str] | None = None) -> None:
    """Run the measurement.

    Args:
        argv: options; None takes them from the command line.
    """
    options = tyro.cli(Options, args=argv)
    data = Scenes(clutter=options.clutter)
    clip = load_backbone("tiny")  # stands in for your CLIP: all tokens out, text features out
    with torch.no_grad():
        captions = [f"a photo of {attribute} {object_}" for attribute, object_ in data.space.pairs]
        clip_text = clip.encode_text(clip.tokenizer(captions))
        splits = {name: encode(clip, data, name) for name in ("train", "test")}
    records = []
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        scores = all_scores(data, clip_text, clip.temperature, splits, options.epochs)
        for name, (step_scores, targets) in scores.items():
            evaluator = CZSLEvaluator(data.space, candidates=data.candidates("test"))
            evaluator.update(step_scores, targets)
            result = evaluator.compute()
            values = {"S": result.seen, "U": result.unseen, "HM": result.hm, "AUC": result.auc}
            records.append({"step": name, **{m: 100 * v for m, v in values.items()}})
    print(f"\nGenerated scenes, clutter {options.clutter:g}, test split, exact protocol, in %:")
    print(f"mean ± standard deviation over {options.seeds} seeds.\n")
    print(table(pd.DataFrame(records)))
    print("\nThe bank takes in the test images as they come: the last row is transductive.")


def encode(clip: nn.Module, data: Scenes, name: str) -> tuple[Tensor, Tensor]:
    """Return all tokens `[n, T, D]` of a split, made once, and its targets `[n]`."""
    loader = DataLoader(data.split(name), batch_size=96)
    parts = [(clip.encode_image(x), y) for x, y in tqdm(loader, desc=f"encoding {name}")]
    tokens, targets = zip(*parts, strict=True)
    return torch.cat(tokens), torch.cat(targets)


def all_scores(
    data: Scenes,
    clip_text: Tensor,
    temperature: float,
    splits: dict[str, tuple[Tensor, Tensor]],
    epochs: int,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Train all steps once and return the scores and targets of the test split by step."""
    seen = data.space.seen_mask
    tokens, targets = splits["train"]
    labels = (seen.cumsum(0) - 1)[targets]  # position among the seen compositions
    test, test_targets = splits["test"]
    arguments = (clip_text, data.space.pair_indices, temperature)
    plain, sparse = Classifier(*arguments), SparseClassifier(*arguments)
    steps: dict[str, Callable[[Tensor], Tensor]] = {"frozen CLIP": Classifier(*arguments)}
    for name, model in (("0 class token", plain), ("1 + sparse alignment", sparse)):

        def loss(x: Tensor, y: Tensor, model: Classifier = model) -> Tensor:
            return F.cross_entropy(model(x)[:, seen], y)

        train(list(model.parameters()), loss, tokens, labels, epochs, name)
        steps[name] = model
    condensed = Condensed(sparse)
    train(
        list(condensed.condense.parameters()),
        lambda x, y: condensed.loss(x, y, seen),
        tokens,
        labels,
        epochs,
        "2 + condenser",
    )
    steps["2 + condenser"] = lambda x: fuse_predictions(
        sparse(x).softmax(-1), condensed(x)[1].softmax(-1), beta=0.5, gamma=0.0
    )
    candidates = data.candidates("test").nonzero().flatten()
    remembering = Remembering(condensed, candidates, beta=0.5, gamma=0.1)
    with torch.no_grad():
        scores = {
            name: (torch.cat([step(x) for x in test.split(96)]), test_targets)
            for name, step in steps.items()
        }
        for x in tokens.split(96):  # the bank starts from the training images
            remembering(x)
        chosen = torch.full((len(test), len(data.space)), -torch.inf)
        chosen[:, candidates] = torch.cat([remembering(x) for x in test.split(96)])
    return {**scores, "3 + memory bank": (chosen, test_targets)}


def table(results: pd.DataFrame) -> str:
    """Return one row per step: mean ± standard deviation over seeds."""
    groups = results.groupby("step", sort=False)
    mean, deviation = groups.mean(), groups.std().fillna(0.0)
    rows = [
        [step, *(f"{mean.loc[step, m]:.1f} ± {deviation.loc[step, m]:.1f}" for m in mean.columns)]
        for step in mean.index
    ]
    return tabulate(rows, headers=["", *mean.columns], tablefmt="github")


if __name__ == "__main__":
    main()

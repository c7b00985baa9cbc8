"""A training step of Troika: the method here against the authors' own class.

    python -m benchmarks troika --peer TROIKA/code

The class is read from a checkout that the user names; no line of it is here. Both train the same
parts of a ViT-B/32 with random weights, in float32, on as many compositions as a data set has.
"""

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import tyro
from tabulate import tabulate
from torch import Tensor, nn

from benchmarks.measure import MIB, RESULTS, append_rows, environment, fresh_run, interleaved
from benchmarks.train_step import CASES, Case, make_space
from czsl_sac import Troika
from czsl_sac.clip import CLIPBackbone, CLIPConfig, apply_adaptformer
from czsl_sac.clip.sources.tiny import WordTokenizer

VIT_B_32 = CLIPConfig(512, 224, 32, 768, 12, 12, 77, 49408, 512, 12, 8)
LAYERS, TRACTION_DROPOUT = 3, 0.1  # MIT-States' published settings
PROMPT_DROPOUT, ADAPTER = 0.3, 64
ABSENT = ("turtle", "einops", "einops.layers", "einops.layers.torch")
"""Modules that the published files import and do not use in a step."""


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        peer: the folder `code` of a checkout of Troika.
        cases: data sets whose compositions are imitated.
        batch: images of a step.
        rounds: timed turns.
        threads: threads of a step.
        csv: where rows are appended.
    """

    peer: Path
    cases: list[str] = field(default_factory=lambda: ["ut-zappos", "mit-states"])
    batch: int = 4
    rounds: int = 3
    threads: int = 1
    csv: Path = RESULTS / "troika.csv"


def main(argv: list[str] | None = None) -> None:
    """Measure every case, print the rows, and append them to the CSV."""
    options = tyro.cli(Options, args=argv, prog="python -m benchmarks troika")
    torch.set_num_threads(options.threads)
    rows: list[dict[str, object]] = []
    for name in options.cases:
        builders = {
            "ours": partial(our_step, CASES[name], options.batch),
            "published": partial(their_step, options.peer, CASES[name], options.batch),
        }
        built = {who: build() for who, build in builders.items()}
        timings = interleaved(
            {who: step for who, (step, _) in built.items()}, rounds=options.rounds, label=name
        )
        for who, timing in timings.items():
            peak = fresh_run(
                prepared, keep_result=False, who=who, peer=options.peer, name=name,
                batch=options.batch,
            ).peak  # fmt: skip
            rows.append(
                {
                    "case": name,
                    "step": who,
                    "seconds": round(timing.median, 3),
                    "times_published": round(timing.ratio(timings["published"]), 3),
                    "peak_mib": round(peak / MIB),
                    "trained_parameters": built[who][1],
                    "batch": options.batch,
                    "rounds": options.rounds,
                    **environment("cpu"),
                }
            )
    print(tabulate([list(row.values())[:6] for row in rows], headers=[*rows[0]][:6]))
    append_rows(options.csv, rows)


def prepared(who: str, peer: Path, name: str, batch: int) -> Callable[[], object]:
    """Return one step, for a process whose peak memory is read; a first one has run."""
    case = CASES[name]
    step, _ = our_step(case, batch) if who == "ours" else their_step(peer, case, batch)
    return step


def our_step(case: Case, batch: int) -> tuple[Callable[[], object], int]:
    """Return a training step of the method here, and how many parameters it trains."""
    torch.manual_seed(0)
    backbone = CLIPBackbone(VIT_B_32, WordTokenizer(buckets=300, context_length=77))
    backbone.requires_grad_(False)
    apply_adaptformer(backbone.visual)
    space = make_space(case)
    model = Troika(
        backbone,
        space,
        alignment="cls",
        traction_layers=LAYERS,
        traction_dropout=TRACTION_DROPOUT,
        prompt_dropout=PROMPT_DROPOUT,
    ).train()
    images, targets = drawn(case, batch)
    trained = [weights for group in model.parameter_groups("train") for weights in group.parameters]
    return finish(trained, lambda: model(images, targets, "train")["total"])


def their_step(peer: Path, case: Case, batch: int) -> tuple[Callable[[], object], int]:
    """Return a training step of the authors' class, and how many parameters it trains."""
    torch.manual_seed(0)
    published = published_class(peer)
    space = make_space(case)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "clip.pt"
        torch.save(random_clip(peer).state_dict(), weights)
        model = published(
            settings(str(weights)),
            attributes=list(space.attributes),
            classes=list(space.objects),
            offset=len(space.attributes),
        ).train()
    images, targets = drawn(case, batch)
    pairs = space.pair_indices
    truth = pairs[targets]
    sample = (images, truth[:, 0], truth[:, 1], targets)
    trained = [weights for weights in model.parameters() if weights.requires_grad]
    # Their contexts are no parameters of the module where `.cuda()` copies, and are where not.
    return finish(trained, lambda: model.loss_calu(model(sample, pairs), sample))


def finish(trained: list[nn.Parameter], loss: Callable[[], Tensor]) -> tuple[Any, int]:
    """Return forward, backward and Adam's step as one call that has run once, and a count."""
    optimizer = torch.optim.Adam(trained, lr=1e-6)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    step()
    return step, sum(weights.numel() for weights in trained)


def drawn(case: Case, batch: int) -> tuple[Tensor, Tensor]:
    """Return random images and targets."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, 224, 224, generator=generator)
    return images, torch.randint(case.seen, (batch,), generator=generator)


def published_class(peer: Path) -> Any:
    """Return the class `Troika` of a checkout, whose `.cuda()` stays on the CPU here."""
    for name in ABSENT:
        sys.modules.setdefault(name, ModuleType(name))
        for used in ("shape", "rearrange", "reduce", "repeat", "Rearrange", "Reduce"):
            vars(sys.modules[name]).setdefault(used, None)
    Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    if str(peer) not in sys.path:
        sys.path.insert(0, str(peer))
    from model.troika import Troika as Published  # type: ignore[import-not-found]

    return Published


def random_clip(peer: Path) -> nn.Module:
    """Return the checkout's own CLIP with the weights that it draws."""
    published_class(peer)
    from clip_modules.clip_model import CLIP  # type: ignore[import-not-found]

    clip: nn.Module = CLIP(512, 224, 12, 768, 32, 77, 49408, 512, 8, 12)
    return clip


def settings(weights: str) -> SimpleNamespace:
    """Return the published settings of MIT-States, for ViT-B/32."""
    return SimpleNamespace(
        clip_arch=weights,
        clip_model="ViT-B/32",
        context_length=8,
        prompt_template=["a photo of x x", "a photo of x", "a photo of x"],
        ctx_init=["a photo of ", "a photo of ", "a photo of "],
        cmt_layers=LAYERS,
        init_lamda=0.1,
        cross_attn_dropout=TRACTION_DROPOUT,
        attr_dropout=PROMPT_DROPOUT,
        adapter_dim=ADAPTER,
        adapter_dropout=0.1,
        pair_loss_weight=1.0,
        attr_loss_weight=1.0,
        obj_loss_weight=1.0,
    )


if __name__ == "__main__":
    main()

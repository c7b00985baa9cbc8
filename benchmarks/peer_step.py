"""A training step of Troika or CSP: the method here against the authors' own class.

    python -m benchmarks peer_step --method troika --peer TROIKA/code
    python -m benchmarks peer_step --method csp --peer CSP

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
from typing import Any, Literal

import torch
import tyro
from tabulate import tabulate
from torch import Tensor, nn

from benchmarks.measure import (
    MIB,
    RESULTS,
    append_rows,
    environment,
    interleaved,
    peak_extra_memory,
)
from benchmarks.train_step import CASES, Case, make_space
from czsl_sac import CSP, Troika
from czsl_sac.clip import CLIPBackbone, CLIPConfig, apply_adaptformer
from czsl_sac.clip.sources.openai import import_clip
from czsl_sac.clip.sources.tiny import WordTokenizer

VIT_B_32 = CLIPConfig(512, 224, 32, 768, 12, 12, 77, 49408, 512, 12, 8)
LAYERS, TRACTION_DROPOUT = 3, 0.1  # MIT-States' published settings
PROMPT_DROPOUT, ADAPTER = 0.3, 64
CSP_TOKENS = 16
ABSENT = ("turtle", "einops", "einops.layers", "einops.layers.torch")
"""Modules that Troika's files import and do not use in a step."""


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        method: whose step.
        peer: a checkout of CSP, or the folder `code` of one of Troika.
        cases: data sets whose compositions are imitated.
        batch: images of a step.
        rounds: timed turns.
        threads: threads of a step.
        csv: where rows are appended.
    """

    method: Literal["troika", "csp"]
    peer: Path
    cases: list[str] = field(default_factory=lambda: ["ut-zappos", "mit-states"])
    batch: int = 4
    rounds: int = 3
    threads: int = 1
    csv: Path = RESULTS / "peer_step.csv"


def main(argv: list[str] | None = None) -> None:
    """Measure every case, print the rows, and append them to the CSV."""
    options = tyro.cli(Options, args=argv, prog="python -m benchmarks peer_step")
    torch.set_num_threads(options.threads)
    rows: list[dict[str, object]] = []
    for name in options.cases:
        builders = {
            "ours": partial(our_step, options.method, CASES[name], options.batch),
            "published": partial(
                their_step, options.method, options.peer, CASES[name], options.batch
            ),
        }
        built = {who: build() for who, build in builders.items()}
        timings = interleaved(
            {who: step for who, (step, _) in built.items()}, rounds=options.rounds, label=name
        )
        for who, timing in timings.items():
            peak = peak_extra_memory(
                prepared,
                who=who,
                method=options.method,
                peer=options.peer,
                name=name,
                batch=options.batch,
            )
            rows.append(
                {
                    "method": options.method,
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
    print(tabulate([list(row.values())[:7] for row in rows], headers=[*rows[0]][:7]))
    append_rows(options.csv, rows)


def prepared(who: str, method: str, peer: Path, name: str, batch: int) -> Callable[[], object]:
    """Return one step, for a process whose peak memory is read: gradients and moments count."""
    case = CASES[name]
    ours = who == "ours"
    step, _ = our_step(method, case, batch) if ours else their_step(method, peer, case, batch)
    return step


def our_step(method: str, case: Case, batch: int) -> tuple[Callable[[], object], int]:
    """Return a training step of the method here, and how many parameters it trains."""
    torch.manual_seed(0)
    backbone = CLIPBackbone(VIT_B_32, WordTokenizer(buckets=300, context_length=77))
    backbone.requires_grad_(False)
    space = make_space(case)
    model: CSP | Troika
    if method == "csp":
        model = CSP(backbone, space, alignment="cls", prompt_dropout=PROMPT_DROPOUT).train()
    else:
        apply_adaptformer(backbone.visual, bottleneck=ADAPTER)
        model = Troika(
            backbone,
            space,
            alignment="cls",
            traction_layers=LAYERS,
            traction_dropout=TRACTION_DROPOUT,
            prompt_dropout=PROMPT_DROPOUT,
        ).train()
    images, targets = drawn(case, batch)
    stage = model.stages[0]
    trained = [weights for group in model.parameter_groups(stage) for weights in group.parameters]
    return finish(trained, lambda: model(images, targets, stage)["total"])


def their_step(method: str, peer: Path, case: Case, batch: int) -> tuple[Callable[[], object], int]:
    """Return a training step of the authors' class, and how many parameters it trains."""
    torch.manual_seed(0)
    if str(peer) not in sys.path:
        sys.path.insert(0, str(peer))
    return (_published_csp if method == "csp" else _published_troika)(case, batch)


def _published_troika(case: Case, batch: int) -> tuple[Callable[[], object], int]:
    """Build the class, whose `.cuda()` stays on the CPU here, from a file of random weights."""
    for name in ABSENT:
        sys.modules.setdefault(name, ModuleType(name))
        for used in ("shape", "rearrange", "reduce", "repeat", "Rearrange", "Reduce"):
            vars(sys.modules[name]).setdefault(used, None)
    Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    from clip_modules.clip_model import CLIP  # type: ignore[import-not-found]
    from model.troika import Troika as Published  # type: ignore[import-not-found]

    space = make_space(case)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "clip.pt"
        torch.save(CLIP(512, 224, 12, 768, 32, 77, 49408, 512, 8, 12).state_dict(), weights)
        model = Published(
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
    return finish(trained, lambda: model.loss_calu(model(sample, pairs), sample))


def _published_csp(case: Case, batch: int) -> tuple[Callable[[], object], int]:
    """Build the class on OpenAI's CLIP with random weights and prompts of 16 tokens."""
    clip = import_clip()
    from clip.model import CLIP
    from models.csp import CSPInterface  # type: ignore[import-not-found]

    space = make_space(case)
    model = CLIP(512, 224, 12, 768, 32, CSP_TOKENS, 49408, 512, 8, 12).requires_grad_(False)
    words = nn.Parameter(torch.randn(len(space.attributes) + len(space.objects), 512) * 0.02)
    interface = CSPInterface(
        model,
        None,
        len(space.attributes),
        words,
        clip.tokenize(["a photo of X X"], context_length=CSP_TOKENS),
        device="cpu",
        attr_dropout=PROMPT_DROPOUT,
    ).train()
    images, targets = drawn(case, batch)

    def loss() -> Tensor:
        with torch.no_grad():  # as their training does
            features = interface.encode_image(images)
        logits = interface(features, space.pair_indices)
        return nn.functional.cross_entropy(logits, targets)

    return finish([words], loss)


def finish(trained: list[nn.Parameter], loss: Callable[[], Tensor]) -> tuple[Any, int]:
    """Return forward, backward and Adam's step as one call, and a count of parameters."""
    optimizer = torch.optim.Adam(trained, lr=1e-6)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step, sum(weights.numel() for weights in trained)


def drawn(case: Case, batch: int) -> tuple[Tensor, Tensor]:
    """Return random images and targets."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, 224, 224, generator=generator)
    return images, torch.randint(case.seen, (batch,), generator=generator)


def settings(weights: str) -> SimpleNamespace:
    """Return Troika's published settings of MIT-States, for ViT-B/32."""
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

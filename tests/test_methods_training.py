"""Every method with every alignment trains, evaluates, saves and resumes by the one loop."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from plain_parts import SPACES, random_backbone
from tiny_runs import options_of
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from czsl_sac import DFSP, CZSLEvaluator, Troika, ZeroShotCLIP
from czsl_sac.clip import apply_adaptformer
from czsl_sac.files import load_tensors
from czsl_sac.methods.base import CZSLMethod
from czsl_sac.methods.registry import method_class, method_names
from czsl_sac.training.build import build_method
from czsl_sac.training.config import OptimConfig, TrainConfig
from czsl_sac.training.loop import fit
from czsl_sac.training.run_folder import BEST, RunFolder
from czsl_sac.training.scoring import evaluate_method
from czsl_sac.training.session import Session

VARIANTS: dict[str, dict[str, object]] = {
    "txt2img": {"method": "dfsp", "fusion": "txt2img"},
    "img2txt": {"method": "dfsp", "fusion": "img2txt"},
    "troika": {"method": "troika", "traction_layers": 1},
    "legacy troika": {
        "method": "troika",
        "traction_layers": 1,
        "legacy_eval_mode": True,
        "legacy_patch_norm": True,
    },
}
"""Methods that run with other options than their defaults."""

# SAC's stages have tests of their own.
NAMES = [*(name for name in method_names() if name not in ("dfsp", "sac", "zero-shot")), *VARIANTS]


class Pictures:
    """A picture of noise for every composition, and noisy copies of it."""

    name = "pictures"
    space = SPACES["usual"]

    def split(self, name: str, *, augment: bool = False) -> Dataset:
        generator = torch.Generator().manual_seed(len(name))
        mask = self.space.seen_mask if name == "train" else torch.ones(len(self.space)).bool()
        targets = mask.nonzero().flatten().repeat(3)
        pictures = torch.randn(len(self.space), 3, 8, 8, generator=torch.Generator().manual_seed(0))
        noise = torch.randn(len(targets), 3, 8, 8, generator=generator)
        return TensorDataset(pictures[targets] + 0.5 * noise, targets)

    def candidates(self, name: str) -> Tensor:
        return torch.ones(len(self.space)).bool()


def config(name: str, alignment: str) -> TrainConfig:
    method = options_of(alignment=alignment, **VARIANTS.get(name, {"method": name}))
    if hasattr(method, "chunk_size"):
        method = replace(method, chunk_size=2)
    return TrainConfig(
        method=method,
        # 12 images: the last batch has one, which BatchNorm cannot take a variance of.
        optim=OptimConfig(epochs=3, batch_size=11, lr=1e-2, eval_batch_size=5),
    )


def make(settings: TrainConfig) -> CZSLMethod:
    torch.manual_seed(1)
    backbone = random_backbone().float()
    if settings.method.name == "troika":
        apply_adaptformer(backbone.visual, bottleneck=3)
    return build_method(settings, backbone, Pictures.space)


@pytest.mark.parametrize(
    ("name", "alignment"), list(itertools.product(sorted(set(NAMES)), ["cls", "patch_max"]))
)
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    name: str, alignment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, data, session = config(name, alignment), Pictures(), Session(batch_size=4)
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    method = make(settings)
    kind = type(method)
    assert kind is method_class(settings.method)
    start = {key: value.clone() for key, value in method.trained_state().items()}
    records = fit(method, data, settings, whole, session).records
    assert [record["epoch"] for record in records] == [1, 2, 3]
    assert any(not torch.equal(value, start[key]) for key, value in method.trained_state().items())

    class StopError(Exception):
        pass

    def stop_in_second_epoch(self: CZSLMethod, stage: str, calls: list[int] = []) -> None:  # noqa: B006
        calls.append(1)
        if len(calls) == 2:
            raise StopError
        train_stage(self, stage)

    train_stage = kind.train_stage
    with monkeypatch.context() as patch:
        patch.setattr(kind, "train_stage", stop_in_second_epoch)
        with pytest.raises(StopError):
            fit(make(settings), data, settings, parts, session)
    resumed = make(settings)
    fit(resumed, data, settings, parts, session, checkpoint=parts.load_checkpoint())
    for key, value in method.trained_state().items():
        assert torch.equal(value, resumed.trained_state()[key]), key

    loaded = make(settings)
    loaded.load_trained_state(load_tensors(parts.path / BEST))
    results = [evaluate_method(m, data, "test", session) for m in (method, loaded)]
    assert results[0].to_dict() == results[1].to_dict()


@pytest.mark.parametrize("alignment", ["cls", "patch_max"])
def test_zero_shot_is_scored_by_clip_alone(alignment: str) -> None:
    method, data = make(config("zero-shot", alignment)), Pictures()
    assert type(method) is ZeroShotCLIP
    result = evaluate_method(method, data, "test", Session(batch_size=4))
    images, targets = data.split("test")[:]
    ids = method.backbone.tokenizer([f"a photo of {a} {o}" for a, o in data.space.pairs])
    with torch.no_grad():
        tokens = F.normalize(method.backbone.encode_image(images), dim=-1)
        text = F.normalize(method.backbone.encode_text(ids), dim=-1)
    similarities = tokens @ text.mT  # [B, T, C]
    evaluator = CZSLEvaluator(data.space)
    evaluator.update(
        similarities.amax(1) if alignment == "patch_max" else similarities[:, 0], targets
    )
    expected = evaluator.compute()
    assert 0 < expected.auc < 1
    assert result.auc == pytest.approx(expected.auc)
    assert (result.seen, result.unseen, result.hm) == pytest.approx(
        (expected.seen, expected.unseen, expected.hm)
    )


def test_options_reach_troika_and_dfsp() -> None:
    troika = make(
        TrainConfig(
            method=options_of(
                "troika",
                alignment="patch_max",
                token_choice="patches",
                temperature=0.5,
                disentangle="none",
                text_side="plain",
                prompt_dropout=0.2,
                legacy_patch_norm=True,
                legacy_eval_mode=True,
                primitive_loss_weight=0.1,
                chunk_size=7,
            )
        )
    )
    assert isinstance(troika, Troika)
    assert (troika.aligner.temperature, troika.aligner.token_choice) == (0.5, "patches")
    assert (troika.traction, len(troika.disentanglers), troika.prompts.dropout) == (None, 0, 0.2)
    options = troika.options
    assert (options.legacy_patch_norm, options.legacy_eval_mode) == (True, True)
    assert (troika.primitive_loss_weight, options.chunk_size) == (0.1, 7)
    assert len(troika.prompts.context) == 3
    plain = make(TrainConfig(method=options_of("troika", traction_layers=2)))
    assert isinstance(plain, Troika)
    assert (plain.primitive_loss_weight, len(plain.traction.layers)) == (1.0, 2)
    assert plain.traction.layers[0].dropout.p == 0.1
    dfsp = make(TrainConfig(method=options_of("dfsp", fusion="img2txt")))
    assert isinstance(dfsp, DFSP)
    assert (dfsp.fusion.fusion, dfsp.options.primitive_loss_weight) == ("img2txt", 0.01)
    assert len(dfsp.prompts.context) == 1

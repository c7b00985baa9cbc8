"""The examples: what they bolt on is the package's own; real data is a matter of options."""

import importlib.util
import itertools
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import stats

from czsl_sac.data.sources.standard import PAIR_LISTS
from czsl_sac.training.presets import preset_for

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TROIKA, BOLT = load("troika_plus_sa"), load("bolt_onto_your_model")


def test_the_bolt_is_troikas_own_sparse_alignment() -> None:
    assert TROIKA.bolt_error() < 1e-3  # of logits that go up to 100


def test_the_configuration_is_the_published_one_on_the_real_data() -> None:
    root = Path("/data/mit-states")
    options = TROIKA.Options(dataset="mit-states", data_root=root, backbone="ViT-B/32")
    config, expected = (
        TROIKA.configuration(options, "patch_max", 1),
        preset_for("mit-states", "troika"),
    )
    assert config.backbone.backbone == "ViT-B/32"
    assert (config.backbone.train_backbone, config.data.data_root) == ("adaptformer", root)
    assert config.method == expected.with_options(alignment="patch_max").method
    assert (config.optim, config.seed) == (expected.optim, 1)
    legacy = TROIKA.configuration(TROIKA.Options(legacy=True, epochs=7), "cls", 0)
    assert (legacy.method.legacy_patch_norm, legacy.method.legacy_eval_mode) == (True, True)
    assert (legacy.optim.epochs, legacy.data.dataset) == (7, "scenes")


@pytest.fixture
def mit_states(tmp_path: Path) -> Path:
    """The layout of MIT-States with 18 images of noise."""
    words = {
        "train": ["ripe apple", "unripe mango", "ripe mango", "old apple"],
        "val": ["unripe apple", "ripe apple"],
        "test": ["old mango", "ripe mango"],
    }
    (tmp_path / PAIR_LISTS).mkdir()
    records = []
    for split, pairs in words.items():
        (tmp_path / PAIR_LISTS / f"{split}_pairs.txt").write_text("\n".join(pairs) + "\n")
        for pair, number in itertools.product(pairs, range(3)):
            name = f"{pair.replace(' ', '_')}/{split}{number}.jpg"
            path = tmp_path / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = torch.randint(256, (40, 60, 3), dtype=torch.uint8)
            Image.fromarray(noise.numpy()).save(path)
            attribute, obj = pair.split()
            records.append({"image": name, "attr": attribute, "obj": obj, "set": split})
    torch.save(records, tmp_path / f"metadata_{PAIR_LISTS}.t7")
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*[Tt]ab:UserWarning")  # the counts are not MIT-States'
def test_the_real_data_set_is_a_matter_of_options(
    mit_states: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    arguments = ["--dataset", "mit-states", "--data-root", str(mit_states), "--backbone", "tiny"]
    arguments += ["--seeds", "1", "--epochs", "1", "--runs", str(runs)]
    TROIKA.main(arguments)
    shown = capsys.readouterr().out
    assert "Troika on mit-states, 1 seeds" in shown
    rows = [line for line in shown.splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in rows[1:]] == [
        *("w/o SA", "w/ SA", "difference"),
        *("(paper: UT-Zappos w/o SA)", "(paper: UT-Zappos w/ SA)"),
        *("(paper: C-GQA w/o SA)", "(paper: C-GQA w/ SA)"),
    ]
    assert {path.name for path in runs.iterdir()} == {
        f"mit-states-{alignment}-0" for alignment in ("cls", "patch_max")
    }
    with pytest.raises(ValueError, match="legacy_patch_norm is True but must be False, as the run"):
        TROIKA.main([*arguments, "--legacy"])


def test_the_table_pairs_the_runs_by_their_seed() -> None:
    auc = {"w/o SA": [40.0, 44.0, 41.0], "w/ SA": [43.0, 44.0, 45.0]}
    frame = pd.DataFrame(
        [
            {"row": row, "seed": seed, "S": value, "U": value, "HM": value, "AUC": value}
            for row, values in auc.items()
            for seed, value in enumerate(values)
        ]
    )
    low, high = stats.ttest_rel(auc["w/ SA"], auc["w/o SA"]).confidence_interval(0.95)
    shown = TROIKA.table(frame)
    assert f"+2.3 [{low:+.1f}, {high:+.1f}]" in shown
    assert "| w/o SA" in shown
    assert "41.7 ± 2.1" in shown


def test_each_block_bolted_on_starts_from_the_model_before() -> None:
    torch.manual_seed(0)
    text, pairs = torch.randn(6, 64), torch.cartesian_prod(torch.arange(2), torch.arange(3))
    tokens, seen = torch.randn(5, 4, 64), torch.tensor([1, 1, 0, 1, 0, 1]).bool()
    plain, sparse = BOLT.Classifier(text, pairs, 0.1), BOLT.SparseClassifier(text, pairs, 0.1)
    names = [[name for name, _ in model.named_parameters()] for model in (plain, sparse)]
    assert names[0] == names[1]  # sparse alignment has no weights
    unit = torch.nn.functional.normalize
    similarity = unit(tokens, dim=-1) @ unit(text, dim=-1).T / 0.1  # the adapters start at zero
    torch.testing.assert_close(plain(tokens), similarity[:, 0])
    torch.testing.assert_close(sparse(tokens), similarity.amax(1))

    condensed = BOLT.Condensed(sparse)
    condensed.loss(tokens, torch.tensor([0, 1, 2, 3, 0]), seen).backward()
    trained = {name for name, p in condensed.named_parameters() if p.grad is not None}
    assert trained
    assert all(name.startswith("condense.") for name in trained)

    remembering = BOLT.Remembering(condensed.requires_grad_(False), torch.arange(6), 1.0, 0.0)
    expected = sparse(tokens).softmax(-1)  # β = 1: alignment alone
    torch.testing.assert_close(remembering(tokens), expected)
    assert remembering.bank.num_samples > 0

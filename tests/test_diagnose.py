"""`czsl-sac diagnose`: the figures of the laboratory, for any data set, zero-shot."""

import json

import pytest
from photographs import write_standard_layout

from benchmarks.lab.measures import Views, measure_clip
from czsl_sac.cli import main
from czsl_sac.clip.sources.tiny import tiny_clip
from czsl_sac.data import Scenes
from czsl_sac.training.config import BackboneConfig, DataConfig
from czsl_sac.training.diagnosis import diagnose

TINY = BackboneConfig(train_backbone="none")


def test_scenes_give_what_the_laboratory_measures():
    answers = diagnose(DataConfig(eval_images_per_pair=1), TINY, batch_size=20)
    measured = measure_clip(tiny_clip(), Views.draw(Scenes(eval_images_per_pair=1), "val"))
    assert answers.images == 48
    for kind, value in answers.auc.items():
        assert value == pytest.approx(measured[f"auc_{kind}"])
    assert answers.patch_wins == measured["wins"]
    assert answers.pointing.accuracy == measured["point"]
    assert answers.pointing.chance == pytest.approx(measured["point_chance"])
    # the laboratory's gap is over the texts of all compositions, not of the candidates alone
    assert answers.modality_gap["patches"] == pytest.approx(measured["rmg_patches"], abs=1e-3)


def test_some_of_the_images_are_the_same_ones_and_of_all_compositions():
    data = DataConfig(eval_images_per_pair=4)
    some, again = (diagnose(data, TINY, images=96) for _ in range(2))
    assert some == again
    assert some.images == 96
    assert 0.1 < some.auc["class_token"] < 0.8


def test_command_prints_and_writes_the_figures(tmp_path, capsys):
    path = tmp_path / "figures.json"
    arguments = ["diagnose", "scenes", "--images", "60", "--json", str(path)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    record = json.loads(path.read_text())
    assert f"{100 * record['auc']['patches']:.2f}" in printed
    assert f"lies on the object in {100 * record['pointing']['accuracy']:.1f} %" in printed
    assert f"a random one would in {100 * record['pointing']['chance']:.1f} %" in printed


def test_command_tells_the_two_built_in_clips_apart(tmp_path):
    aucs = {}
    for backbone in ("tiny", "tiny-patches"):
        path = tmp_path / f"{backbone}.json"
        arguments = ["diagnose", "scenes", "--backbone", backbone, "--images", "96"]
        assert main([*arguments, "--json", str(path)]) == 0
        aucs[backbone] = json.loads(path.read_text())["auc"]["patches"]
    assert aucs["tiny"] < 0.2
    assert aucs["tiny-patches"] > 0.65


def test_files_have_no_masks(tmp_path, capsys):
    pairs = {
        "train": ["red car", "blue cat"],
        "val": ["red cat", "red car"],
        "test": ["blue car", "blue cat"],
    }
    records = [(pair, split) for split, listed in pairs.items() for pair in listed * 3]
    write_standard_layout(tmp_path, pairs, records)
    assert main(["diagnose", str(tmp_path), "--backbone", "tiny"]) == 0
    printed = capsys.readouterr().out
    assert "patches alone" in printed
    assert "pointing cannot be measured" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no/such/folder", "--backbone", "tiny"], "no/such/folder"),
        (["scenes", "--images", "1"], "images is 1 but must be at least 2"),
        (["scenes", "--clutter", "2"], "clutter is 2.0 but must be at most 1"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    assert main(["diagnose", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1

"""`czsl-sac predict`: probabilities, candidates, formats, and files that are no images."""

import csv
import re
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from predicting import COUNT, complaint, of_the_command, predicted
from tiny_runs import copy_of, scenes, tiny_run, write_scenes

from czsl_sac import CompositionSpace, Scenes
from czsl_sac.cli import main
from czsl_sac.predict.predictions import marginals
from czsl_sac.predict.run_predictor import RunPredictor
from czsl_sac.run import load_run


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return write_scenes(tmp_path / "images", COUNT)


def test_probabilities_are_those_of_the_predictor_on_the_data_set(
    capsys: pytest.CaptureFixture[str], images: list[Path]
) -> None:
    lines, said = predicted(capsys, tiny_run(), *images, "--top-k", 200)
    assert said == f"{COUNT} images predicted\n"
    assert [line["image"] for line in lines] == [str(path) for path in images]

    run = load_run(tiny_run(), bank="train")
    method, data = run.method, run.data
    batch = torch.stack([scenes().split("test")[number][0] for number in range(COUNT)])
    scores = method.predictor(data.space)(batch)
    expected = scores / scores.sum(1, keepdim=True)
    for line, row in zip(lines, expected, strict=True):
        named = {(c["attribute"], c["object"]): c["probability"] for c in line["compositions"]}
        given = torch.tensor([named[pair] for pair in data.space.pairs])
        torch.testing.assert_close(given, row, rtol=1e-4, atol=1e-6)
        values = [c["probability"] for c in line["compositions"]]
        assert values == sorted(values, reverse=True)
        assert all(
            c["seen"] == ((c["attribute"], c["object"]) in data.space.seen)
            for c in line["compositions"]
        )


def test_marginals_are_sums_over_the_candidates(
    capsys: pytest.CaptureFixture[str], images: list[Path]
) -> None:
    (line, *_), _ = predicted(capsys, tiny_run(), images[0], "--top-k", 200)
    for kind in ("attribute", "object"):
        marginal = {entry[kind]: entry["probability"] for entry in line[f"{kind}s"]}
        assert sum(marginal.values()) == pytest.approx(1.0, abs=1e-5)
        for name, value in marginal.items():
            of_name = [c["probability"] for c in line["compositions"] if c[kind] == name]
            assert value == pytest.approx(sum(of_name), abs=1e-6)


def test_logits_become_a_softmax_at_the_methods_scale(images: list[Path]) -> None:
    predictor = RunPredictor(load_run(tiny_run("csp")))
    (batch,) = predictor.batches(images)
    logits = predictor.predictor(batch.images)
    torch.testing.assert_close(batch.probabilities, logits.softmax(1).cpu())


@pytest.mark.parametrize(("candidates", "number"), [("all", 144), ("seen", 96), ("open", 144)])
def test_candidates_limit_what_is_named(
    capsys: pytest.CaptureFixture[str], images: list[Path], candidates: str, number: int
) -> None:
    arguments = (tiny_run(), images[0], "--candidates", candidates, "--top-k", 999)
    (line,), _ = predicted(capsys, *arguments)
    assert len(line["compositions"]) == number
    assert sum(c["probability"] for c in line["compositions"]) == pytest.approx(1.0, abs=1e-5)
    assert all(c["seen"] for c in line["compositions"]) == (candidates == "seen")


def test_candidates_come_from_a_file(
    capsys: pytest.CaptureFixture[str], images: list[Path], tmp_path: Path
) -> None:
    listed = tmp_path / "candidates.txt"
    listed.write_text("blue cat\n\nred car\nblue cat\n", "utf-8")
    (line,), _ = predicted(capsys, tiny_run(), images[0], "--candidates", listed)
    named = {(c["attribute"], c["object"]) for c in line["compositions"]}
    assert named == {("blue", "cat"), ("red", "car")}
    assert {entry["object"] for entry in line["objects"]} >= {"cat", "car"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("blue cat\nblue catt\n", "line 2 is 'blue catt', but 'catt' is no object of the run: did"),
        ("bleu cat\n", "line 1 is 'bleu cat', but 'bleu' is no attribute of the run: did you mean"),
        ("blue xyz\n", "'xyz' is no object of the run: known are boat, car, cat"),
        ("blue\n", "line 1 is 'blue' but must be an attribute and an object"),
        ("\n", "names no composition: write an attribute and an object a line"),
    ],
)
def test_a_list_with_a_mistake_is_refused(
    capsys: pytest.CaptureFixture[str],
    images: list[Path],
    tmp_path: Path,
    text: str,
    message: str,
) -> None:
    listed = tmp_path / "candidates.txt"
    listed.write_text(text, "utf-8")
    said = complaint(capsys, tiny_run(), images[0], "--candidates", listed)
    assert str(listed) in said
    assert message in said


def test_csv_holds_what_the_json_lines_hold(
    capsys: pytest.CaptureFixture[str], images: list[Path], tmp_path: Path
) -> None:
    lines, _ = predicted(capsys, tiny_run(), *images[:2], "--top-k", 2)
    output = tmp_path / "new" / "predictions.csv"
    arguments = [str(tiny_run()), *map(str, images[:2]), "--top-k", "2", "--format", "csv"]
    assert main(["predict", *arguments, "--output", str(output)]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"written to {output}" in printed.err
    rows = list(csv.DictReader(output.open(encoding="utf-8", newline="")))
    assert len(rows) == 2 * 3 * 2
    for line in lines:
        for kind, entries in (
            ("composition", line["compositions"]),
            ("attribute", line["attributes"]),
            ("object", line["objects"]),
        ):
            own = [r for r in rows if (r["image"], r["kind"]) == (line["image"], kind)]
            assert [int(row["rank"]) for row in own] == [1, 2]
            for row, entry in zip(own, entries, strict=True):
                assert row["attribute"] == entry.get("attribute", "")
                assert row["object"] == entry.get("object", "")
                assert float(row["probability"]) == pytest.approx(entry["probability"])
                assert row["seen"] == (str(entry["seen"]).lower() if kind == "composition" else "")
    assert [path.name for path in output.parent.iterdir()] == ["predictions.csv"]


def test_the_table_names_the_likeliest_and_marks_unseen_ones(
    capsys: pytest.CaptureFixture[str], images: list[Path]
) -> None:
    (line,), _ = predicted(capsys, tiny_run(), images[0])
    assert main(["predict", str(tiny_run()), str(images[0])]) == 0
    first = next(row for row in capsys.readouterr().out.splitlines() if images[0].name in row)
    best = line["compositions"][0]
    assert f"{best['attribute']} {best['object']}{'' if best['seen'] else ' *'} " in first
    assert f"{100 * best['probability']:.1f}" in first
    assert line["attributes"][0]["attribute"] in first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN"], "images is empty but must be image files, folders or patterns"),
        (["nowhere", "IMAGE"], "there is no run in nowhere: the folder nowhere does not exist"),
        (["RUN", "nowhere.png"], "no image to predict: nowhere.png is missing"),
        (["RUN", "*.nothing"], "no image to predict: *.nothing matches no file"),
        (["RUN", "IMAGE", "--candidates", "opne"], "must be all, seen, open, or a file"),
        (["RUN", "IMAGE", "--candidates", "opne"], "did you mean open?"),
        (["RUN", "IMAGE", "--candidats", "all"], "did you mean --candidates?"),
        (["RUN", "IMAGE", "--top-k", "0"], "top_k is 0 but must be at least 1: raise it"),
        (["RUN", "IMAGE", "--format", "xml"], "invalid choice 'xml' for argument '--format'"),
        (["RUN", "IMAGE", "--output", "."], "output is the folder . but must be a file"),
        (["RUN", "IMAGE", "--output", "IMAGE/x.csv"], "must be a folder, and is a file"),
        (["RUN", "IMAGE", "--heatmaps", "IMAGE"], "must be a folder, and is a file"),
        (["RUN", "IMAGE", "--output", "IMAGE"], "must not be one of the images, which would be"),
        (["RUN", "IMAGE", "--heatmaps-for", "blue cat"], "add --heatmaps DIR"),
        (["RUN", "IMAGE", "--heatmaps", "m", "--heatmaps-for", "x cat"], "'x' is no attribute"),
    ],
)
def test_a_mistake_is_one_line(
    capsys: pytest.CaptureFixture[str], images: list[Path], arguments: list[str], message: str
) -> None:
    known = {"RUN": str(tiny_run()), "IMAGE": str(images[0])}
    given = [re.sub("RUN|IMAGE", lambda name: known[name[0]], part) for part in arguments]
    assert message in complaint(capsys, *given)


def test_adapting_changes_later_predictions_and_says_so(
    capsys: pytest.CaptureFixture[str], images: list[Path]
) -> None:
    images = write_scenes(images[0].parent, 12)
    plain, said = predicted(capsys, tiny_run(), *images, "--batch-size", 1, "--top-k", 144)
    assert "transductive" not in said
    adapted, said = predicted(
        capsys, tiny_run(), *images, "--batch-size", 1, "--top-k", 144, "--adapt"
    )
    assert "The method learned from these images: transductive predictions." in said
    assert adapted[0] == plain[0]  # predicted before it is taken in
    assert adapted[1:] != plain[1:]


def test_a_run_in_python_predicts_as_the_command_does(
    capsys: pytest.CaptureFixture[str], images: list[Path]
) -> None:
    images = write_scenes(images[0].parent, 20)  # two batches
    run = load_run(tiny_run())
    found = {adapt: run.predict(images, top=144, adapt=adapt) for adapt in (True, False)}
    for adapt, option in ((True, ["--adapt"]), (False, [])):
        lines, _ = predicted(capsys, tiny_run(), *images, "--top-k", 144, *option)
        for mine, line in zip(found[adapt], lines, strict=True):
            expected = [c["probability"] for c in line["compositions"]]
            assert [c.probability for c in mine.compositions] == pytest.approx(expected, abs=1e-6)
    assert found[True][:16] == found[False][:16]
    assert found[True][16:] != found[False][16:]
    other = load_run(tiny_run(), beta=1.0, bank="train").predict(images[0], top=144)
    assert load_run(tiny_run(), beta=1.0).predict(images[0], top=144) == other
    assert other[0] != found[False][0]


def test_the_bank_is_left_as_training_filled_it(images: list[Path]) -> None:
    predictor = RunPredictor(of_the_command())
    first = [batch.probabilities for batch in predictor.batches(images, batch_size=1)]
    again = [batch.probabilities for batch in predictor.batches(images, batch_size=1)]
    torch.testing.assert_close(first, again, rtol=0, atol=0)


def test_adapting_needs_a_memory_bank(
    capsys: pytest.CaptureFixture[str], images: list[Path]
) -> None:
    said = complaint(capsys, tiny_run("csp"), images[0], "--adapt")
    assert "adapt is on but CSP must have a memory for it, and this run has none" in said


def test_the_example_writes_scenes_whose_predictions_are_those_of_the_data_set(
    tmp_path: Path,
) -> None:
    example = runpy.run_path(str(Path(__file__).parent.parent / "examples/scenes_to_predict.py"))
    first, last = example["write_scenes"](tmp_path / "scenes", 2)
    predictor = RunPredictor(of_the_command())
    (batch,) = predictor.batches([first, last])
    data = Scenes(mean=scenes().mean, std=scenes().std)
    items = data.split("test")
    for path, image, index in ((first, batch.images[0], 0), (last, batch.images[1], 959)):
        expected, target = items[index]
        torch.testing.assert_close(image, expected)
        assert path.name == f"{index:03d}_{'_'.join(data.space.pairs[target])}.png"


def test_marginals_of_a_name_without_candidates_are_zero() -> None:
    space = scenes().space
    attribute, obj = marginals(torch.eye(len(space))[:2], space)
    assert attribute.shape == (2, 12)
    assert attribute.sum(1).tolist() == obj.sum(1).tolist() == [1.0, 1.0]
    assert attribute[0, space.pair_indices[0, 0]] == 1


def test_a_run_predicts_where_its_data_set_is_gone(
    capsys: pytest.CaptureFixture[str], images: list[Path], tmp_path: Path
) -> None:
    expected, _ = predicted(capsys, tiny_run(), images[0])
    config = load_run(tiny_run()).config
    gone = replace(config.data, dataset="files", data_root=tmp_path / "gone")
    run = copy_of(tiny_run(), tmp_path / "run", config=replace(config, data=gone))
    assert predicted(capsys, run, images[0])[0] == expected
    with pytest.raises(FileNotFoundError, match="gone"):
        load_run(run).evaluate()
    with pytest.raises(FileNotFoundError, match="gone"):  # the bank has to be filled anew
        load_run(run, checkpoint="last")


def test_a_data_set_with_other_compositions_is_refused(tmp_path: Path) -> None:
    space = scenes().space
    pairs = [*space.pairs]
    del pairs[max(range(len(pairs)), key=lambda c: not space.seen_mask[c])]
    fewer = CompositionSpace(space.attributes, space.objects, pairs, space.seen)
    run = load_run(copy_of(tiny_run(), tmp_path / "run", space=fewer))  # the weights fit
    with pytest.raises(ValueError, match=r"data_root holds .* but must hold .* on which the run"):
        run.evaluate()

"""Model cards, and runs on a hub of this machine."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hub_server import local_hub
from huggingface_hub import constants
from tiny_runs import copy_of, tiny_run

from czsl_sac import load_run
from czsl_sac.cli import main
from czsl_sac.training.run_folder import RunFolder


def test_a_card_says_what_the_run_reached(tmp_path: Path) -> None:
    run, card = tiny_run(bank="dynamic"), tmp_path / "card.md"
    assert main(["card", str(run), "--output", str(card)]) == 0
    _, header, text = card.read_text("utf-8").split("---\n", 2)
    values = yaml.safe_load(header)
    assert values["license"] == "mit"
    result = json.loads((run / "test.json").read_text("utf-8"))["result"]
    (found,) = values["model-index"][0]["results"]
    metrics = {metric["type"]: metric["value"] for metric in found["metrics"]}
    assert metrics == {
        name: round(100 * result[name], 2) for name in ("seen", "unseen", "hm", "auc")
    }
    assert f"| this run | {100 * result['seen']:.2f}" in text
    assert re.search(
        r"\| chance +\| 1\.04 +\| 4\.17 ", text
    )  # of 96 seen and of 24 unseen compositions
    assert "exact protocol" in text
    assert "The result is transductive" in text
    assert "czsl-sac under the MIT licence" in text


def test_a_card_of_a_run_without_a_bank_speaks_of_no_transduction(tmp_path: Path) -> None:
    card = tmp_path / "card.md"
    assert main(["card", str(tiny_run("csp")), "--output", str(card)]) == 0
    assert "transductive" not in card.read_text("utf-8")


def test_a_run_goes_to_the_hub_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = RunFolder(tiny_run(bank="dynamic")).read_record()
    data = replace(record.config.data, data_root=tmp_path / "secret")
    folder = copy_of(
        tiny_run(bank="dynamic"), tmp_path / "run", config=replace(record.config, data=data)
    )
    with local_hub() as server:
        pattern = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", pattern)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        run = load_run(folder)
        address = run.push_to_hub("me/scenes", token="none")
        assert address.endswith("/me/scenes")
        files = server.files["me/scenes"]
        assert {"config.json", "best.safetensors", "memory.safetensors", "README.md"} <= set(files)
        assert "last.pt" not in files
        assert not any(str(tmp_path).encode() in content for content in files.values())
        assert b'load_run("hf:me/scenes")' in files["README.md"]
        assert server.messages == ["SAC on scenes"]
        again = load_run("hf:me/scenes")
        assert again.evaluate(split="val") == load_run(tiny_run(bank="dynamic")).evaluate(
            split="val"
        )
        with pytest.raises(ConnectionError, match="hf:me/none could not be had"):
            load_run("hf:me/none")
    with pytest.raises(ConnectionError, match="could not be had from the Hugging Face Hub"):
        load_run("hf:me/other")


@pytest.mark.parametrize("name", ["hf:", "hf:scenes", "hf:a/b/c", "hf:/b"])
def test_what_is_no_name_of_a_repository_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must be USER/NAME"):
        load_run(name)


def test_a_backbone_that_others_do_not_have_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny").write_text("a file that has the backbone's name", "utf-8")
    run = load_run(tiny_run("csp"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="backbone is tiny, a file of this machine"):
        run.push_to_hub("me/scenes", token="none")

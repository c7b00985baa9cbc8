"""`czsl-sac demo`: shows what predict says, asks nobody else, and refuses in a sentence."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from gradio_client import Client, handle_file
from PIL import Image
from tiny_runs import scenes, tiny_run, write_scenes

from czsl_sac import CompositionSpace, CZSLEvaluator
from czsl_sac.cli import main
from czsl_sac.demo.explorer import Explorer
from czsl_sac.predict.decision import decide
from czsl_sac.run import load_run
from czsl_sac.training.run_folder import RunFolder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_scenes(tmp_path_factory.mktemp("images"), 2)


@pytest.fixture(scope="module")
def explorer() -> Explorer:
    return Explorer(load_run(tiny_run(), bank="train"))


@pytest.fixture(scope="module")
def page() -> Iterator[str]:
    """The address of the command's page, in a process of its own."""
    command = [sys.executable, "-m", "czsl_sac", "demo", str(tiny_run()), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert server.stdout is not None
    line = server.stdout.readline()
    try:
        assert line.startswith("http://127.0.0.1:"), line
        yield line.split()[0]
    finally:
        server.send_signal(signal.SIGINT)
        _, said = server.communicate(timeout=20)
    assert (server.returncode, said) == (0, "")  # no traceback whatever the tests below gave it


def predicted(capsys: pytest.CaptureFixture[str], image: Path, *more: str) -> dict[str, float]:
    """What czsl-sac predict says of an image, by composition."""
    capsys.readouterr()
    given = ["predict", str(tiny_run()), str(image), "--format", "jsonl", "--top-k", "999", *more]
    assert main(given) == 0
    found = json.loads(capsys.readouterr().out)["compositions"]
    return {f"{c['attribute']} {c['object']}": c["probability"] for c in found}


def in_table(html: str) -> dict[str, float]:
    """Probabilities of the cells of a table, by composition."""
    cells = re.findall(r'data-column="\d+" data-probability="([^"]+)"[^>]*title="([^",]+)', html)
    return {name: float(value) for value, name in cells}


@pytest.mark.parametrize("candidates", ["all", "seen"])
def test_the_page_shows_what_predict_says(
    page: str, images: list[Path], candidates: str, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = predicted(capsys, images[0], "--candidates", candidates)
    client = Client(page, verbose=False)
    answer, table, shown, composition, _ = client.predict(
        handle_file(images[0]), candidates, 0.0, api_name="/predict"
    )
    assert in_table(table) == pytest.approx(expected, abs=1e-6)
    likeliest = next(iter(expected))
    assert composition == likeliest
    assert likeliest in answer
    other = list(expected)[5]
    drawn, _ = client.predict(other, api_name="/explain")
    assert f"looked for {other}" in drawn
    assert drawn != shown
    said, _ = client.predict("blue catt", api_name="/explain")
    assert "&#39;catt&#39; is no object of the run: did you mean cat?" in said


def test_a_bias_names_what_the_evaluator_counts(explorer: Explorer) -> None:
    space, data = explorer.choices["all"], scenes().split("test")
    predictor = load_run(tiny_run(), bank="train").method.predictor(space)
    some = range(0, len(data), 6)
    scores = predictor(torch.stack([data[n][0] for n in some]))
    targets = torch.tensor([data[n][1] for n in some])
    evaluator = CZSLEvaluator(space)
    evaluator.update(scores, targets)
    result = evaluator.compute()
    seen = space.seen_mask[targets]
    for bias, of_seen, of_unseen in zip(*result.curve.values(), strict=True):
        named = torch.tensor([decide(row, space.seen_mask, bias).named for row in scores])
        right = (named == targets).double()
        assert float(right[seen].mean()) == pytest.approx(of_seen)
        assert float(right[~seen].mean()) == pytest.approx(of_unseen)


def test_the_bias_moves_the_name_and_no_probability(page: str, images: list[Path]) -> None:
    client = Client(page, verbose=False)
    answers = [
        client.predict(handle_file(images[0]), "all", bias, api_name="/predict")
        for bias in (-9.0, 9.0)
    ]
    named = [int(re.search(r'data-named="(\d+)"', a[0])[1]) for a in answers]
    space = load_run(tiny_run()).method.space
    assert space.seen_mask[named].tolist() == [True, False]
    assert in_table(answers[0][1]) == in_table(answers[1][1])


def test_the_bias_begins_where_validation_had_its_best(capsys: pytest.CaptureFixture[str]) -> None:
    records = RunFolder(tiny_run()).records()
    for checkpoint in ("best", "last"):
        assert RunFolder(tiny_run()).epoch_of(checkpoint) == records[-1]


def test_bad_images_are_one_sentence(page: str, tmp_path: Path) -> None:
    (tmp_path / "none.png").write_text("no image")
    Image.new("1", (12_000, 11_000)).save(tmp_path / "huge.png")
    frames = [Image.new("RGB", (70, 70), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moves.gif", save_all=True, append_images=frames[1:])
    Image.new("RGBA", (70, 70), (255, 0, 0, 40)).save(tmp_path / "clear.png")
    client = Client(page, verbose=False)
    for name, sentence in (
        ("none.png", ">none.png is no readable image (of no known format).<"),
        ("huge.png", ">huge.png is an image of more than 120 megapixels, which is not decoded"),
        ("moves.gif", "The file holds several pictures: the first is looked at."),
        ("clear.png", "The image is transparent in parts, where the colours below it are seen."),
    ):
        shown = client.predict(handle_file(tmp_path / name), "all", 0.0, api_name="/predict")
        assert sentence in shown[0]
        assert str(tmp_path.root) + "tmp" not in shown[0]


def test_a_long_table_keeps_the_likeliest(explorer: Explorer, images: list[Path]) -> None:
    answer = explorer.ask(images[0], "all")
    table = answer.table(3, 2)
    assert [name for name, _ in table.attributes] == [n for n, _ in answer.top.attributes[:3]]
    assert [name for name, _ in table.objects] == [n for n, _ in answer.top.objects[:2]]
    for (attribute, _), row in zip(table.attributes, table.cells, strict=True):
        for (obj, _), column in zip(table.objects, row, strict=True):
            assert column == answer.space.index(attribute, obj)


def test_choices_that_repeat_others_are_left_out(explorer: Explorer, tmp_path: Path) -> None:
    assert list(explorer.choices) == ["all", "seen"]  # every pair of the scenes is in the data
    listed = tmp_path / "pairs.txt"
    listed.write_text("blue cat\n")
    with_file = Explorer(load_run(tiny_run(), bank="train"), candidates=str(listed))
    assert (list(with_file.choices), with_file.start) == (["all", "seen", str(listed)], str(listed))


def test_one_kind_alone_is_named_at_any_bias() -> None:
    space = CompositionSpace.closed_world([("old", "fig"), ("ripe", "fig")])
    decision = decide(torch.tensor([0.2, 0.8]), space.seen_mask, -99.0)
    assert decision == (1, 1, None, float("inf"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "run is missing but must be the folder of a run"),
        (["nowhere"], "there is no run in nowhere"),
        (["RUN", "--attributes", "a", "--objects", "o"], "must be left out with --attributes"),
        (["RUN", "--candidates", "opne"], "did you mean open?"),
        (["RUN", "--port", "70000"], "port is 70000 but must be at most 65535"),
        (["RUN", "--host", "192.0.2.1"], "host is '192.0.2.1' but must be an address of this"),
        (["RUN", "--prot", "1"], "did you mean --port?"),
    ],
)
def test_a_mistake_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    port = [] if "--port" in arguments else ["--port", "0"]
    given = [str(tiny_run()) if part == "RUN" else part for part in arguments]
    assert main(["demo", *given, *port]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_port_in_use_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["demo", str(tiny_run()), "--port", str(port)]) == 2
    assert f"port is {port} but must be free, and another program" in capsys.readouterr().err


def test_in_a_browser(
    page: str, images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.support.ui import WebDriverWait

    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("no chromium with chromedriver is installed: its page is not looked at")
    expected = predicted(capsys, images[0])
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "no-proxy-server"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    try:
        wait = WebDriverWait(chrome, 30)
        chrome.get(page)
        wait.until(lambda c: c.find_elements("css selector", "input[type=file]"))[0].send_keys(
            str(images[0])
        )
        drawn = wait.until(lambda c: c.find_elements("css selector", "img.map"))[0]
        before = drawn.get_attribute("data-column")
        cells = chrome.find_elements("css selector", ".grid button")
        shown = {
            c.get_attribute("title").removesuffix(", unseen"): c.get_attribute("data-probability")
            for c in cells
        }
        assert {n: float(p) for n, p in shown.items()} == pytest.approx(expected, abs=1e-6)
        other = next(c for c in cells if c.get_attribute("data-column") != before)
        column = other.get_attribute("data-column")
        other.click()
        wait.until(lambda c: c.find_elements("css selector", f'img.map[data-column="{column}"]'))
        log = [json.loads(entry["message"])["message"] for entry in chrome.get_log("performance")]
    finally:
        chrome.quit()
    asked = [m["params"]["request"]["url"] for m in log if m["method"].endswith("WillBeSent")]
    assert len(asked) > 10
    assert [url for url in asked if not url.startswith((page, "data:", "blob:"))] == []

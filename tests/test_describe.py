"""`czsl-sac describe`: prompts, answers of a model and of a server, and a file that is whole."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from language_models import WORDS, Told, server, write_language_model

from czsl_sac import CompositionSpace
from czsl_sac.cli import main
from czsl_sac.methods.descriptions import read_descriptions
from czsl_sac.methods.language_models import ChatServer, LocalModel
from czsl_sac.methods.logiczsl.concepts import ConceptTree, concept_question
from czsl_sac.methods.logiczsl.question import ConceptQuestion
from czsl_sac.methods.plid.sentences import KEYWORDS, Sentences
from czsl_sac.methods.questionnaire import put

PAIRS = [("Faux.Fur", "boot"), ("red", "boot"), ("red", "cat")]
SPACE = CompositionSpace.closed_world(PAIRS)


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_language_model(tmp_path_factory.mktemp("language-model"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of folders; the images are empty, since none is opened."""
    root = tmp_path_factory.mktemp("data") / "photos"
    for attribute, obj in PAIRS:
        (root / f"{attribute}_{obj}").mkdir(parents=True)
        (root / f"{attribute}_{obj}" / "1.png").touch()
    return root


def test_keywords_are_names_as_clip_reads_them_and_what_came_is_not_asked_again() -> None:
    model = Told(
        ["A red boot.\n###\nKeywords:", "a RED boot.", "no", " old boot boot boot. "], ["x" * 9]
    )
    ask = Sentences(SPACE, count=3).ask
    assert ask(("faux fur", "boot"), model, 0) == ["a red boot.", "old boot", "x" * 9]
    (first, three, seed), (second, one, other) = model.asked
    before = KEYWORDS.rpartition("Keywords:")[0]
    assert first.startswith(before)
    asked = [f"Keywords: faux fur, boot, {word}\nOutput:" for word in ("photo", "image", "picture")]
    assert first.removeprefix(before) in asked
    assert (first, three, one) == (second, 3, 1)
    assert seed != other


def test_the_picture_word_differs_between_compositions() -> None:
    model = Told(["some sentence"])
    for number in range(30):
        Sentences(SPACE, count=1).ask(("red", str(number)), model, 0)
    words = [prompt.rsplit(", ", 1)[1] for prompt, *_ in model.asked]
    assert {*words} == {f"{word}\nOutput:" for word in ("photo", "image", "picture")}


def test_a_list_loses_its_bullets_numbers_and_heading() -> None:
    answer = (
        'Here are two sentences:\n1. A red cat sleeps.\n- "A cat, red."\n\n3) \ufffd broken one'
    )
    model = Told([answer], ["a third one"], follows_instructions=True)
    found = Sentences(SPACE, count=3).ask(("red", "cat"), model, 0)
    assert found == ["a red cat sleeps.", "a cat, red.", "a third one"]
    assert [count for _, count, _ in model.asked] == [1, 1]
    assert "photo of red cat" in model.asked[0][0]
    assert "Write 3 different" in model.asked[0][0]
    assert "Write 1 different" in model.asked[1][0]


def test_what_never_comes_is_told_and_left_out() -> None:
    questionnaire = Sentences(SPACE, count=2)
    model = Told(["the only one"])
    assert questionnaire.ask(("red", "cat"), model, 0) == ["the only one"]
    assert len(model.asked) == 10
    answers = {("red", "cat"): ["the only one"], ("red", "boot"): []}
    assert questionnaire.content(answers) == {"red": {"cat": ["the only one"]}}
    (told,) = questionnaire.remarks(answers)
    assert told.startswith("2 of 2 compositions have fewer than 2 sentences, 'red cat' among them")


def test_a_local_model_writes_the_file_and_a_second_call_asks_nothing(
    language_model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    command = ["describe", str(photos), "--method", "plid", "--output", "s.json", "--count", "4"]
    assert main([*command, "--model", str(language_model)]) == 0
    told = capsys.readouterr().out
    assert (
        "s.json answers 3 questions. To train with it: czsl-sac train --method plid --desc" in told
    )
    first = Path("s.json").read_bytes()
    sentences = read_descriptions(Path("s.json"))
    assert sorted(sentences) == [("faux fur", "boot"), ("red", "boot"), ("red", "cat")]
    for own in sentences.values():
        assert len({*own}) == 4
        assert {*" ".join(own).split()} <= {*WORDS}
    assert main([*command, "--model", "none/such"]) == 0  # which is not even loaded
    assert Path("s.json").read_bytes() == first
    assert os.listdir() == ["s.json"]
    open_world = [*command, "--model", str(language_model), "--world", "open"]
    assert main(open_world) == 0
    more = read_descriptions(Path("s.json"))
    assert {key: more[key] for key in sentences} == sentences
    assert len(more) == 4


def test_seeds_decide_and_the_order_of_questions_does_not(language_model: Path) -> None:
    model = LocalModel(str(language_model))
    questionnaire = Sentences(SPACE, count=3)
    first = [questionnaire.ask(key, model, 0) for key in questionnaire.questions()]
    turned = [questionnaire.ask(key, model, 0) for key in reversed(questionnaire.questions())]
    assert first == turned[::-1]
    assert first != [questionnaire.ask(key, model, 1) for key in questionnaire.questions()]


def test_a_killed_call_goes_on_and_ends_in_the_same_file(
    language_model: Path, photos: Path, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole.json", tmp_path / "cut.json"
    command = [
        "describe",
        str(photos),
        "--method",
        "plid",
        "--model",
        str(language_model),
        "--count",
        "3",
    ]
    assert main([*command, "--output", str(whole)]) == 0
    slow = (
        "import sys, time; from czsl_sac.cli import main\n"
        "from czsl_sac.methods.plid.sentences import Sentences\n"
        "ask = Sentences.ask\n"
        "Sentences.ask = lambda *given: (ask(*given), time.sleep(0.5))[0]\n"
        "main(sys.argv[1:])"
    )
    process = subprocess.Popen([sys.executable, "-c", slow, *command, "--output", str(cut)])
    part = tmp_path / "cut.json.part"
    until = time.monotonic() + 60
    while not (part.exists() and part.read_bytes().count(b"\n") >= 2):
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not cut.exists()
    kept = part.read_text("utf-8").splitlines()
    with part.open("a") as file:
        file.write('{"key": ["red", "ca')  # as if killed while it wrote
    assert main([*command, "--output", str(cut), "--seed", "1"]) == 2
    asked = []
    own = Sentences(CompositionSpace.closed_world(sorted(PAIRS)), count=3)
    real = own.ask
    own.ask = lambda key, *rest: (asked.append(key), real(key, *rest))[1]  # type: ignore[method-assign]
    about = {"model": str(language_model), "url": None, "temperature": 1.0}
    put(own, lambda: LocalModel(str(language_model)), cut, seed=0, about=about)
    done = [tuple(json.loads(line)["key"]) for line in kept[1:]]
    assert asked == [key for key in own.questions() if key not in done]
    assert done
    assert cut.read_bytes() == whole.read_bytes()
    assert not part.exists()


class Stopped(Sentences):
    """Sentences whose second question is interrupted."""

    def ask(self, key: Any, model: Any, seed: int) -> list[str]:
        self.asked = [*getattr(self, "asked", []), key]
        if len(self.asked) == 2:
            raise KeyboardInterrupt
        return super().ask(key, model, seed)


def test_half_a_line_is_cut_off_however_often_it_is_interrupted(tmp_path: Path) -> None:
    output = tmp_path / "s.json"
    for done in range(2):
        stopped = Stopped(SPACE, count=1)
        with pytest.raises(KeyboardInterrupt):
            put(stopped, lambda: Told(["some sentence"]), output)
        assert stopped.asked == stopped.questions()[done : done + 2]
        with (tmp_path / "s.json.part").open("a") as file:
            file.write('{"key": ["red", "ca')
    put(Stopped(SPACE, count=1), lambda: Told(["some sentence"]), output)
    assert len(read_descriptions(output)) == 3


def test_a_chat_server_is_asked_with_seed_and_key_and_again_where_it_was_busy(
    monkeypatch: pytest.MonkeyPatch, photos: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("A_KEY", "secret")
    output = tmp_path / "s.json"
    with server("a red boot stands\na boot in red\nmore than asked") as (url, asked):
        command = [
            "describe",
            str(photos),
            "--method",
            "plid",
            "--output",
            str(output),
            "--model",
            "large",
            "--url",
        ]
        options = ["--key-variable", "A_KEY", "--count", "2", "--temperature", "0.7"]
        assert main([*command, url, *options]) == 0
    assert {(one["path"], one["key"], one["model"], one["temperature"]) for one in asked} == {
        ("/v1/chat/completions", "Bearer secret", "large", 0.7)
    }
    assert len({one["seed"] for one in asked}) == len(asked) == 3
    assert json.loads(output.read_text())["red"]["cat"] == ["a red boot stands", "a boot in red"]
    with server(503, "fine") as (url, asked):
        model = ChatServer(url, "large", patience=0.01)
        assert model.generate("?", count=2, seed=5, max_tokens=9) == ["fine", "fine"]
    assert [one["seed"] for one in asked] == [5, 5, 6]
    assert asked[0]["key"] is None


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (401, r"/chat/completions gave no answer \(401 Unauthorized\): see to the server"),
        (302, r"gave no answer \(302 Found\)"),
        (503, r"gave no answer \(503 Service Unavailable\): .* goes on where it stopped"),
        (
            {"error": "no"},
            r"answered '\{\"error\": \"no\"\}' but must answer as OpenAI's chat does",
        ),
    ],
)
def test_what_a_server_refuses_is_one_sentence(answer: object, message: str) -> None:
    with (
        server(answer) as (url, asked),
        pytest.raises((ConnectionError, ValueError), match=message),
    ):
        ChatServer(url, "m", patience=0.01).generate("?", count=1, seed=0, max_tokens=9)
    assert len(asked) == (4 if answer == 503 else 1)


def test_concepts_come_out_of_an_answer_with_words_around_it(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "c.json"
    tree = {
        "attributes": {"colour": ["red", "blue"], "stuff": ["Faux.Fur", "red"]},
        "objects": {"footwear": ["boot"]},
    }
    command = ["describe", str(photos), "--method", "logiczsl", "--output", str(output)]
    with server("I cannot.", f"Sure:\n```json\n{json.dumps(tree)}\n```") as (url, asked):
        assert main([*command, "--model", "m", "--url", url]) == 0
    assert asked[1]["messages"] == [{"role": "user", "content": concept_question(SPACE)}]
    assert json.loads(output.read_text()) == {
        "attributes": {"colour": ["red"], "stuff": ["Faux.Fur"]},
        "objects": {"footwear": ["boot"]},
    }
    assert ConceptTree.read(str(output), SPACE).attributes.words == ("stuff", "colour")
    told = capsys.readouterr().out
    assert "1 of 4 names are in no group, 'cat' among them" in told
    assert "czsl-sac train --method logiczsl --concepts" in told
    with pytest.raises(ValueError, match="model is 'told', whose answers are no JSON of groups"):
        ConceptQuestion(SPACE).ask(("concepts",), Told(["[]"]), 0)


def test_a_prompt_of_ones_own(tmp_path: Path) -> None:
    own = "{attribute}-{object}-{count}-{picture} {other}"
    model = Told(["some sentence"])
    Sentences(SPACE, count=1, prompt=own).ask(("red", "{count}"), model, 0)
    assert model.asked[0][0].startswith("red-{count}-1-")
    assert model.asked[0][0].endswith(" {other}")
    with pytest.raises(ValueError, match=r"prompt has no \{attribute\} or \{object\} but must"):
        Sentences(SPACE, prompt="a photo")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "csp"], "must be one of logiczsl, plid"),
        (["--method", "logiczsl", "--count", "3"], "count is 3 but must be left out"),
        (["--key-variable", "X"], "key_variable is given but url must be, too"),
        (["--url", "ftp://x"], "url is 'ftp://x' but must be the address of a server"),
        (["--model", "/none/such"], "model is '/none/such' but must be a folder or a hub's name"),
        (["--temperature", "0"], "temperature is 0.0 but must be above 0"),
        (["--prompt", "/none/such.txt"], "/none/such.txt"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(
    options: list[str], message: str, photos: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    output = tmp_path / "s.json"
    model = [] if "--model" in options else ["--model", "m"]
    method = [] if "--method" in options else ["--method", "plid"]
    command = ["describe", str(photos), "--output", str(output), *model, *method]
    assert main([*command, *options]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_file_is_refused_and_stays(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "s.json"
    output.write_text('{"mine": 1}')
    assert (
        main(["describe", str(photos), "--method", "plid", "--output", str(output), "--model", "m"])
        == 2
    )
    assert "holds other JSON but must hold sentences" in capsys.readouterr().err
    assert output.read_text() == '{"mine": 1}'
    output.unlink()
    part = tmp_path / "s.json.part"
    part.write_text("a diary\n")
    assert (
        main(["describe", str(photos), "--method", "plid", "--output", str(output), "--model", "m"])
        == 2
    )
    assert "s.json.part is damaged but must hold the answers" in capsys.readouterr().err
    assert part.read_text() == "a diary\n"

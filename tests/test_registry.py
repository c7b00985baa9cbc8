"""Where methods are found, and that nothing outside a method's folder asks for its name."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from installed_packages import VISPROD, forget, install
from toy_runs import toy_clip, write_table

import czsl_sac
from czsl_sac import CSP
from czsl_sac.cli import main
from czsl_sac.methods.registry import (
    method_class,
    method_names,
    method_options,
    reference,
)
from czsl_sac.training.config import TrainConfig
from czsl_sac.training.presets import DATA_SETS, preset_for
from czsl_sac.training.record import RunRecord

PACKAGE = Path(czsl_sac.__file__).parent


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    forget()
    yield
    for name in ("visprod", "mine"):
        sys.modules.pop(name, None)
    forget()


@pytest.fixture
def visprod(tmp_path: Path) -> Iterator[None]:
    """The example's package, installed."""
    with pytest.MonkeyPatch.context() as patch:
        install(patch, tmp_path, {"visprod": "visprod:VisProd"}, VISPROD)
        yield


def test_methods_of_this_package_are_its_folders() -> None:
    own = {path.parent.name for path in (PACKAGE / "methods").glob("*/options.py")}
    assert {name.replace("-", "_") for name in method_names()} == own
    for name in method_names():
        options = method_options(name)()
        assert (options.name, reference(options)) == (name, name)
        assert method_class(options).Options is type(options)
        assert options.label
        assert options.citation
        assert options.memory <= options.inference <= set(vars(options))


@pytest.mark.usefixtures("visprod")
def test_a_method_of_another_package_is_found_by_its_name() -> None:
    assert method_names()[-1] == "visprod"
    options = method_options("visprod")
    assert options is method_options("visprod:VisProd")
    assert (options.label, reference(options())) == ("VisProd", "visprod")
    config = preset_for("scenes", "visprod")
    assert (config.optim.lr, config.backbone.train_backbone) == (4e-3, "none")
    assert config.to_dict()["method"]["method"] == "visprod"
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    for name in DATA_SETS:
        assert preset_for(name, "visprod").data == DATA_SETS[name].data


def test_module_and_class_find_it_where_nothing_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(VISPROD))
    assert "visprod" not in method_names()
    options = method_options("visprod:VisProd")
    assert reference(options()) == "visprod:VisProd"
    config = preset_for("scenes", "visprod:VisProd")
    assert config.to_dict()["method"]["method"] == "visprod:VisProd"
    assert TrainConfig.from_dict(config.to_dict()) == config


MINE = """
from dataclasses import dataclass
from typing import ClassVar
from czsl_sac import CSP, CZSLMethod, MethodOptions

class Bare(CZSLMethod):
    pass

class Unnamed(CZSLMethod):
    @dataclass(frozen=True)
    class Options(MethodOptions):
        name: ClassVar[str] = "mine"
        label: ClassVar[str] = "Mine"

class Untyped(CZSLMethod):
    Options = dict

class Clash(CSP):
    @dataclass(frozen=True)
    class Options(CSP.Options):
        name: ClassVar[str] = "clash"
        label: ClassVar[str] = "Clash"
        implementation: ClassVar[str] = "mine:Clash"
        lr: float = 0.1

class Wrong(CSP):
    @dataclass(frozen=True)
    class Options(CSP.Options):
        name: ClassVar[str] = "wrong"
        label: ClassVar[str] = "Wrong"
        implementation: ClassVar[str] = "mine:Wrong"
        settings: ClassVar[dict] = {"scenes": {"learning_rte": 0.1}}

number = 3
"""


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("cps", r"method is 'cps' but must be one of .*, or MODULE:CLASS: did you mean csp\?"),
        ("zero_shot", r"method is 'zero_shot' but must be one of .*: did you mean zero-shot\?"),
        ("SAC", "method is 'SAC' but must be one of"),
        ("", "method is '' but must be one of"),
        ("nowhere:Mine", r"'nowhere:Mine' but must be MODULE:CLASS .*No module named 'nowhere'\)"),
        ("mine:Missing", r"'mine:Missing' but must be MODULE:CLASS of a method .*'Missing'\)"),
        (":Mine", r"':Mine' but must be MODULE:CLASS of a method that can be imported"),
        ("mine:", r"'mine:' but must be MODULE:CLASS of a method that can be imported"),
        ("broken:Mine", r"'broken:Mine' but must be .*ZeroDivisionError: division by zero"),
        ("unread:Mine", r"'unread:Mine' but must be MODULE:CLASS .*SyntaxError: "),
        ("mine:number", "'mine:number' but must be a class derived from czsl_sac.CZSLMethod: deri"),
        ("mine:CZSLMethod", "mine:CZSLMethod has no options but must name a class derived from"),
        ("mine:Bare", "mine:Bare has no options but must name a class derived from czsl_sac.Meth"),
        ("mine:Untyped", "mine:Untyped has no options but must name a class derived from"),
        ("mine:Unnamed", "Options of mine:Unnamed has no implementation but must say name, label"),
        ("mine:Clash", "Clash has the option lr but must not, since every run has one of that na"),
        ("mine:Wrong", r"learning_rte is given but must be an option of data, .* or wrong"),
        ("gone", r"method is 'lost:Gone' but must be MODULE:CLASS .*No module named 'lost'"),
    ],
)
def test_a_method_that_cannot_be_is_one_sentence(
    method: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "unread.py").write_text("def\n")
    install(monkeypatch, tmp_path, {"gone": "lost:Gone"})
    with pytest.raises(ValueError, match=message):
        preset_for("scenes", method)
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--method", method]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert re.search(message, said)
    assert not (tmp_path / "runs").exists()
    # A package that cannot be imported is in nobody else's way.
    assert preset_for("scenes", "csp").method.name == "csp"
    assert main(["train", "--method", "csp", "--beta", "0.5"]) == 2
    assert "--beta is an option of sac" in capsys.readouterr().err


def test_a_methods_own_name_is_not_taken_by_another_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path, {"csp": "visprod:VisProd"}, VISPROD)
    assert method_names().count("csp") == 1
    assert method_options("csp") is CSP.Options


def test_the_whole_way_of_a_method_of_another_package(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, run = write_table(tmp_path / "data"), tmp_path / "run"
    data = ["--dataset", "files", "--data-root", str(table), "--backbone", str(toy_clip())]
    start = ["train", "--method", "visprod", *data, "--run-dir", str(run), "--epochs", "1"]
    with pytest.MonkeyPatch.context() as patch:
        install(patch, tmp_path, {"visprod": "visprod:VisProd"}, VISPROD)
        assert main(["train", "--method", "visprod", "--help"]) == 0
        assert "--train-primitives" in capsys.readouterr().out
        assert main([*start, "--lr", "1e-3", "--alignment", "patch_max"]) == 0
        assert main(["train", "--resume", "--run-dir", str(run), "--epochs", "2"]) == 0
        assert main(["evaluate", str(run), "--class-weight", "0.5", "--world", "open"]) == 0
        image = str(table.parent / "0.png")
        maps = ["--heatmaps", str(tmp_path / "maps")]
        assert main(["predict", str(run), image, *maps]) == 0
        assert main(["report", str(run), "--examples", "0"]) == 0
        assert "VisProd" in (run / "report.html").read_text("utf-8")
        saved = json.loads((run / "config.json").read_text("utf-8"))
        assert saved["config"]["method"]["method"] == "visprod"
        capsys.readouterr()
        assert main([*start, "--beta", "0.5"]) == 2
        said = capsys.readouterr().err
        assert "--beta is an option of sac, " in said
        assert "but visprod has none: leave it out, or choose --method sac." in said
        assert main(["evaluate", str(run), "--train-context", "False"]) == 2
        capsys.readouterr()
    forget()
    assert main(["evaluate", str(run)]) == 2
    said = capsys.readouterr().err
    assert f"{run / 'config.json'}: method is 'visprod' but must be one of " in said
    assert said.count("\n") == 1


def test_no_code_outside_a_methods_folder_asks_for_its_name() -> None:
    """But for the default, and for the paper's own tables."""
    quoted = re.compile("|".join(f"[\"']{re.escape(name)}[\"']" for name in method_names()))
    default = re.compile(r'^ *(method: str = "sac",?|def preset_for\(.*|method = "sac" if .*)$')
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        where = path.relative_to(PACKAGE).parts
        if where[0] == "experiments" or (where[0] == "methods" and len(where) > 2):
            continue
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            plain = line.partition("  #")[0]
            if quoted.search(plain) and not default.match(plain) and ">>>" not in plain:
                found.append(f"{'/'.join(where)}:{number}: {line.strip()}")
    assert found == []


def test_the_record_of_a_run_names_its_method() -> None:
    space = czsl_sac.CompositionSpace.closed_world([("red", "car")])
    for name in method_names():
        config = TrainConfig(method=method_options(name)())
        record = RunRecord(config, space, "tiny", "0" * 64, {})
        values = json.loads(json.dumps(record.to_dict()))
        assert values["config"]["method"]["method"] == name
        assert RunRecord.from_dict(values) == record

"""The wheel holds every module and data file, and the metadata that installers read."""

import email
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

import czsl_sac
from czsl_sac.cli.info import _REQUIRED

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "czsl_sac"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel built from a copy, since building writes beside the sources."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, source / "czsl_sac", ignore=ignored)
    code = "import setuptools.build_meta as b; print(b.build_wheel('.'))"
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:setuptools", "-c", code],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(source / done.stdout.split()[-1])


def test_the_wheel_holds_every_file_of_the_package_and_no_other(wheel: zipfile.ZipFile) -> None:
    files = {
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == files
    assert "czsl_sac/py.typed" in packed


def test_weights_in_the_wheel_stay_under_ten_megabytes(wheel: zipfile.ZipFile) -> None:
    weights = [info for info in wheel.infolist() if info.filename.endswith(".safetensors")]
    assert weights
    assert sum(info.file_size for info in weights) < 10e6


def test_the_metadata_says_version_licence_and_requirements(wheel: zipfile.ZipFile) -> None:
    (path,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = email.message_from_bytes(wheel.read(path))
    required = metadata.get_all("Requires-Dist", [])
    assert metadata["Version"] == czsl_sac.__version__
    assert metadata["License-Expression"] == "MIT"
    assert {r.partition(">")[0] for r in required if ";" not in r} == set(_REQUIRED)
    assert {"viz", "open-clip", "test", "docs"} <= set(metadata.get_all("Provides-Extra", []))


def test_the_console_script_is_the_module_run_by_python_m(wheel: zipfile.ZipFile) -> None:
    (path,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "czsl-sac = czsl_sac.cli:main" in wheel.read(path).decode()
    done = subprocess.run(
        [sys.executable, "-m", "czsl_sac", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"czsl-sac {czsl_sac.__version__}\n"


def test_the_files_that_name_a_version_name_this_one() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == czsl_sac.__version__
    assert {"title", "authors", "message", "references"} <= citation.keys()
    newest = re.search(r"(?m)^## (\S+?),? ", (ROOT / "CHANGELOG.md").read_text("utf-8"))
    assert newest
    assert newest[1] == czsl_sac.__version__

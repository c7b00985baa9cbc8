"""What importing the package costs, which names it offers, and who may import whom."""

import ast
import importlib
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import czsl_sac

PACKAGE = Path(czsl_sac.__file__).parent

CONTRACT = {
    *("PatchMaxAligner", "VisualCondenser", "EntropyMemoryBank", "fuse_predictions"),
    *("PathProbabilities", "patch_max", "CompositionSpace", "CZSLEvaluator", "CZSLResult"),
    *("relative_modality_gap", "modality_gap_l2", "SAC", "ZeroShotCLIP", "load_backbone"),
    *("Troika", "CSP", "CoOp", "DFSP"),
}

# Lower layers first; a module may import its own layer and those before it.
LAYERS = [
    *("_version", "words", "space", "files", "checks", "deprecation", "schema", "pictures"),
    *("functional", "kernels", "blocks", "clip", "methods", "data", "evaluation", "training"),
    *("predict", "demo", "report", "experiments", "run", "cli", "__main__"),
]


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )


def test_importing_the_package_loads_nothing_else() -> None:
    done = python(
        """
        import sys
        before = set(sys.modules)
        import czsl_sac
        loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
        assert not loaded & {"torch", "numpy", "clip", "torchvision", "tyro"}, loaded
        """
    )
    assert done.returncode == 0, done.stderr


def test_the_four_blocks_need_torch_alone() -> None:
    done = python(
        """
        import sys

        class Absent:
            names = {
                "clip", "torchvision", "triton", "pandas", "accelerate", "matplotlib", "loralib",
                "scipy", "safetensors", "tyro", "tabulate", "PIL", "tqdm", "open_clip",
            }
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in self.names:
                    raise ModuleNotFoundError(f"{name} is absent", name=name)

        sys.meta_path.insert(0, Absent())
        import torch
        from czsl_sac import (
            CompositionSpace, EntropyMemoryBank, PatchMaxAligner, PathProbabilities,
            VisualCondenser, fuse_predictions, patch_max,
        )

        space = CompositionSpace.closed_world([("red", "star"), ("blue", "disc")])
        tokens, text = torch.randn(3, 5, 64), torch.randn(len(space), 64)
        patch_max(tokens, text)
        logits = PatchMaxAligner()(tokens, text)
        condensed = VisualCondenser(64)(tokens)
        bank = EntropyMemoryBank(text, 2)
        bank.update(condensed, logits.softmax(-1))
        path = PathProbabilities(*(torch.rand(3, 2).softmax(-1) for _ in range(3)))
        scores = fuse_predictions(
            path, path, bank(condensed).softmax(-1),
            pairs=space.pair_indices, beta=0.5, gamma=0.5,
        )
        assert scores.shape == (3, 2)
        assert not Absent.names & {name.partition(".")[0] for name in sys.modules}
        """
    )
    assert done.returncode == 0, done.stderr


def test_names_for_type_checkers_are_the_names_loaded_on_use() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text("utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    declared = {
        alias.name: node.module.removeprefix("czsl_sac.")
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    assert declared == czsl_sac._HOME
    assert set(czsl_sac.__all__) == {*declared, "__version__"}
    assert set(czsl_sac.__all__) >= CONTRACT


@pytest.mark.parametrize("name", czsl_sac.__all__)
def test_every_public_name_loads_from_a_module_that_lists_it(name: str) -> None:
    value = getattr(czsl_sac, name)
    if name != "__version__":
        home = importlib.import_module(f"czsl_sac.{czsl_sac._HOME[name]}")
        assert value is getattr(home, name)
        assert name in getattr(home, "__all__", [name])


def test_unknown_names_are_attribute_errors_and_known_ones_are_listed() -> None:
    with pytest.raises(AttributeError, match="no attribute 'PatchMaxAlinger'"):
        czsl_sac.PatchMaxAlinger  # noqa: B018
    assert not hasattr(czsl_sac, "nothing")
    assert set(czsl_sac.__all__) <= set(dir(czsl_sac))


def imports_of(path: Path) -> list[tuple[str, bool]]:
    """Modules that a file imports, each with whether the import is at the top level."""
    tree = ast.parse(path.read_text("utf-8"))
    found = []
    for node in ast.walk(tree):
        names = (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        found += [(name, node in tree.body) for name in names]
    return found


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_no_layer_imports_a_higher_one(path: Path) -> None:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if parts == ("__init__",):
        return
    own = LAYERS.index(parts[0])
    for name, top in imports_of(path):
        package, _, rest = name.partition(".")
        if package == "czsl_sac":
            assert rest, f"{path} imports the whole package; import the module that is meant"
            assert LAYERS.index(rest.partition(".")[0]) <= own, f"{path} imports {name}"
        elif package == "triton":
            assert parts[0] == "kernels", f"{path} imports triton"
        elif own <= LAYERS.index("space") and top:
            assert package == "torch" or package in sys.stdlib_module_names, f"{path}: {name}"

"""Gates on the Triton kernels' machine code, compiled ahead of time for three architectures.

No GPU is needed; that the code is fast on one is not shown here. By default one kernel of each kind
is compiled, with `pytest -m compile` every configuration that a plan can have.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).parent.parent
# Bytes of shared memory a program may use. Pointers also serve GPUs of 99 KiB (8.6, 8.9, 12.0).
SHARED_LIMIT = {"sm_80": 101376, "sm_90": 232448, "sm_100": 232448}
# Products on tensor cores, as PTX and as machine code have them.
PTX_PRODUCT = {"sm_80": "mma.sync.", "sm_90": "wgmma.mma_async.", "sm_100": "tcgen05.mma."}
PRODUCT = {"sm_80": "HMMA", "sm_90": "HGMMA", "sm_100": "UTCHMMA"}


def compile_kernels(*arguments: str) -> list[dict]:
    """Compile in a process of its own, in which no kernel is interpreted."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    program = Path(__file__).with_name("compile_kernels.py")
    done = subprocess.run(
        [sys.executable, program, ",".join(SHARED_LIMIT), *arguments],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def few() -> list[dict]:
    return compile_kernels("few")


@pytest.fixture(scope="module")
def everything() -> list[dict]:
    return compile_kernels()


def test_one_kernel_of_each_kind(few: list[dict]) -> None:
    for architecture in SHARED_LIMIT:
        found = [case for case in few if case["architecture"] == architecture]
        check_resources(found)
        check_tensor_cores(found)
        check_design([case for case in found if "instructions" in case])


@pytest.mark.compile
@pytest.mark.parametrize("architecture", SHARED_LIMIT)
def test_every_configuration(everything: list[dict], architecture: str) -> None:
    found = [case for case in everything if case["architecture"] == architecture]
    assert len(found) > 80
    check_resources(found)
    check_tensor_cores(found)
    disassembled = [case for case in found if "instructions" in case]
    assert len(disassembled) >= 9
    check_design(disassembled)


def check_resources(found: list[dict]) -> None:
    """No spilled register, and shared memory within the limit."""
    assert {case["kernel"] for case in found} >= {"forward", "token_grad", "order", "text_grad"}
    for case in found:
        named = {k: v for k, v in case.items() if k != "instructions"}
        assert case["stack"] == 0, named
        assert case["local"] == 0, named
        limit = SHARED_LIMIT[case["architecture"] if case.get("descriptors") else "sm_80"]
        assert case["shared"] <= limit, named


def check_tensor_cores(found: list[dict]) -> None:
    """Every product in half precision uses them: the forward kernel's the architecture's own."""
    for case in found:
        if case["dtype"] == "fp32":
            continue
        if case["kernel"] == "forward":
            assert case["products"].get(PTX_PRODUCT[case["architecture"]], 0) > 0, case
        elif case["kernel"] in ("last_token", "token_grad"):
            assert sum(case["products"].values()) > 0, case


def check_design(disassembled: list[dict]) -> None:
    """What the forward kernel's speed rests on, in its machine code."""
    for case in disassembled:
        counts = case["instructions"]
        assert counts.get(PRODUCT[case["architecture"]], 0) > 0
        if not case["descriptors"]:
            assert "LDGSTS" in counts  # copied to shared memory while the product runs
            continue
        assert "UTMALDG" in counts  # texts and tokens by TMA
        # the maximum stays inside threads, nearly: 4 rows of a thread in 2 exchanges each
        products = len(case["shape"][1]) + case["shape"][0]
        assert counts.get("SHFL", 0) <= 8 * products + 4 * case["persistent"]
        assert case["registers"] < (256 if case["persistent"] else 200)

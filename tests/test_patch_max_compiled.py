"""Gates on the Triton kernels' machine code, compiled ahead of time for three architectures.

No GPU is needed; that the code is fast on one is not shown here.
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
MATRIX_INSTRUCTION = {"sm_80": "HMMA", "sm_90": "HGMMA", "sm_100": "UTCHMMA"}


def compile_kernels(*arguments: str) -> list[dict]:
    """Compile in a process of its own, in which no kernel is interpreted."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("compile_kernels.py"), *arguments],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def everything() -> list[dict]:
    return compile_kernels(",".join(SHARED_LIMIT))


@pytest.fixture(params=list(SHARED_LIMIT))
def compiled(request: pytest.FixtureRequest, everything: list[dict]) -> list[dict]:
    found = [case for case in everything if case["architecture"] == request.param]
    assert {case["kernel"] for case in found} == {"forward", "token_grad", "text_grad"}
    return found


def test_gates(compiled: list[dict]) -> None:
    check_gates(compiled)


def test_what_the_design_rests_on(compiled: list[dict]) -> None:
    for case in compiled:
        if case["kernel"] != "forward":
            continue
        counts = case["instructions"]
        if not case["descriptors"]:
            assert "LDGSTS" in counts  # copied to shared memory while the product runs
            continue
        assert "UTMALDG" in counts  # texts and tokens by TMA
        # the maximum stays inside threads, nearly: 4 rows of a thread in 2 exchanges each
        products = len(case["shape"][1]) + case["shape"][0]
        assert counts.get("SHFL", 0) <= 8 * products
        assert case["registers"] < 200


def check_gates(cases: list[dict]) -> None:
    """Nothing spilled, shared memory within the limit, tensor cores used."""
    for case in cases:
        named = {k: v for k, v in case.items() if k != "instructions"}
        architecture = case["architecture"]
        assert case["stack"] == 0, named
        assert case["local"] == 0, named
        limit = SHARED_LIMIT[architecture if case.get("descriptors") else "sm_80"]
        assert case["shared"] <= limit, named
        if case["kernel"] != "text_grad" and case["dtype"] != "fp32":
            assert case["instructions"].get(MATRIX_INSTRUCTION[architecture], 0) > 0, named


@pytest.mark.slow
@pytest.mark.parametrize("architecture", SHARED_LIMIT)
def test_gates_of_every_shape_a_plan_can_have(architecture: str) -> None:
    cases = compile_kernels(architecture, "every")
    assert len(cases) > 60
    check_gates(cases)

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
# Products on tensor cores, as PTX and as machine code have them.
PTX_PRODUCT = {"sm_80": "mma.sync.", "sm_90": "wgmma.mma_async.", "sm_100": "tcgen05.mma."}
PRODUCT = {"sm_80": "HMMA", "sm_90": "HGMMA", "sm_100": "UTCHMMA"}


@pytest.fixture(scope="module")
def everything() -> list[dict]:
    """Every kernel compiled, in a process of its own, in which none is interpreted."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    program = Path(__file__).with_name("compile_kernels.py")
    done = subprocess.run(
        [sys.executable, program, ",".join(SHARED_LIMIT)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(params=list(SHARED_LIMIT))
def compiled(request: pytest.FixtureRequest, everything: list[dict]) -> list[dict]:
    found = [case for case in everything if case["architecture"] == request.param]
    assert len(found) > 80
    assert {case["kernel"] for case in found} == {"forward", "token_grad", "text_grad"}
    return found


def test_every_kernel_keeps_to_registers_and_shared_memory(compiled: list[dict]) -> None:
    for case in compiled:
        named = {k: v for k, v in case.items() if k != "instructions"}
        assert case["stack"] == 0, named
        assert case["local"] == 0, named
        limit = SHARED_LIMIT[case["architecture"] if case.get("descriptors") else "sm_80"]
        assert case["shared"] <= limit, named


def test_every_product_in_half_precision_uses_tensor_cores(compiled: list[dict]) -> None:
    for case in compiled:
        if case["kernel"] != "text_grad" and case["dtype"] != "fp32":
            assert case["products"].get(PTX_PRODUCT[case["architecture"]], 0) > 0, case


def test_what_the_design_rests_on(compiled: list[dict]) -> None:
    disassembled = [case for case in compiled if "instructions" in case]
    assert len(disassembled) >= 9
    for case in disassembled:
        counts = case["instructions"]
        assert counts.get(PRODUCT[case["architecture"]], 0) > 0
        if not case["descriptors"]:
            assert "LDGSTS" in counts  # copied to shared memory while the product runs
            continue
        assert "UTMALDG" in counts  # texts and tokens by TMA
        # the maximum stays inside threads, nearly: 4 rows of a thread in 2 exchanges each
        products = len(case["shape"][1]) + case["shape"][0]
        assert counts.get("SHFL", 0) <= 8 * products
        assert case["registers"] < 200

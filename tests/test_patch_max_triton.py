"""The Triton kernels without a GPU: interpreted for their values, compiled for their machine code.

Run as a script this file compiles kernels and prints what came out; the tests run it so in a
process of its own, and run `TestInterpreted` in another one, since Triton decides when a kernel
is defined whether it will be interpreted.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton")

from czsl_sac.kernels import patch_max, patch_max_values  # noqa: E402
from czsl_sac.kernels.plan import (  # noqa: E402
    COVERS,
    TEXT_GRAD_BLOCK,
    TEXT_GRAD_WARPS,
    ForwardPlan,
    forward_plan,
    token_grad_plan,
)

ROOT = Path(__file__).parent.parent
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# Bytes of shared memory a program may use. Pointers also serve GPUs of 99 KiB (8.6, 8.9, 12.0).
SHARED_LIMIT = {"sm_80": 101376, "sm_90": 232448, "sm_100": 232448}
MATRIX_INSTRUCTION = {"sm_80": "HMMA", "sm_90": "HGMMA", "sm_100": "UTCHMMA"}
# Of the forward kernel: (text per image, with indices).
VARIANTS = ((False, True), (False, False), (True, True))
# Token counts of CLIP's vision towers: B/32, B/16, L/14, L/14 at 336 pixels, L/14 without class.
TOKEN_COUNTS = (50, 197, 257, 577, 256)


def separate(*arguments: str, interpret: bool) -> str:
    """Run Python in a process of its own and return what it printed."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    if interpret:
        environment["TRITON_INTERPRET"] = "1"
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


# ---- plans ----


@pytest.mark.parametrize("descriptors", [True, False])
@pytest.mark.parametrize("dtype", DTYPES.values())
def test_plans_cover_every_token_once_with_little_waste(
    dtype: torch.dtype, descriptors: bool
) -> None:
    for T in range(1, 1200):
        plan = forward_plan(T, dtype, descriptors=descriptors)
        covered = plan.passes * plan.full + sum(plan.widths)
        assert plan.widths in COVERS
        # all widths but the last are full: only the last product is masked
        assert covered - plan.widths[-1] < T <= covered
        assert covered - T < max(16, 0.33 * T)
    for T, columns in ((257, 272), (197, 208), (577, 592), (256, 256), (50, 64)):
        plan = forward_plan(T, dtype, descriptors=descriptors)
        assert plan.passes * plan.full + sum(plan.widths) == columns


# ---- values, in the interpreter ----


@pytest.mark.skipif(INTERPRETED, reason="this starts the interpreter")
def test_the_interpreter_agrees_with_the_reference() -> None:
    out = separate("-m", "pytest", "-q", "-k", "TestInterpreted", __file__, interpret=True)
    assert re.search(r"\d+ passed", out)
    assert "failed" not in out


@pytest.fixture
def fast_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the interpreter take the NaN-keeping maximum by numpy, and multiply bfloat16.

    It runs a reduction it does not know element by element, in minutes, and multiplies the bit
    patterns of bfloat16 (triton-lang/triton issue 11584).
    """
    import numpy as np
    from triton.runtime import interpreter

    from czsl_sac.kernels import triton_forward

    reduce, dot = interpreter.ReduceOps.apply_impl, interpreter.InterpreterBuilder.create_dot

    def apply_impl(self, given):
        if self.combine_fn is triton_forward.nan_maximum:
            return self.min_max(given[0], val_reduce_op=np.max)
        return reduce(self, given)

    def create_dot(self, a, b, d, input_precision, max_num_imprecise_acc):
        def widened(x):
            if x.data.dtype != np.uint16:
                return x
            wide = (x.data.astype(np.uint32) << 16).view(np.float32)
            return interpreter.TensorHandle(wide, interpreter.tl.float32)

        return dot(self, widened(a), widened(b), d, input_precision, max_num_imprecise_acc)

    monkeypatch.setattr(interpreter.ReduceOps, "apply_impl", apply_impl)
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)


@pytest.mark.skipif(not INTERPRETED, reason="run by test_the_interpreter_agrees...")
@pytest.mark.usefixtures("fast_interpreter")
class TestInterpreted:
    """Values and gradients of the kernels, through the same door as on a GPU."""

    @pytest.fixture(autouse=True, params=["descriptors", "pointers"])
    def loads(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
        from czsl_sac.kernels import triton_load

        if request.param == "pointers":
            monkeypatch.setattr(triton_load, "TensorDescriptor", None)
        return request.param

    @pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
    @pytest.mark.parametrize(
        ("B", "T", "C", "D", "per_image"),
        [
            (2, 257, 65, 64, False),  # ViT-L/14: the class token on its own
            (1, 300, 130, 16, True),  # a full pass, a ragged tile of texts
            (18, 5, 3, 16, False),  # more images than a group holds
            (1, 50, 9, 272, True),  # features of a step, and of a gradient's tile, left over
            (2, 1, 1, 32, False),
        ],
    )
    def test_against_eager_and_float64(
        self, B: int, T: int, C: int, D: int, per_image: bool, dtype: torch.dtype
    ) -> None:
        from test_patch_max import assert_no_worse_than_eager, inputs

        tokens, text, grad = inputs(B, T, C, D, dtype, per_image)
        assert_no_worse_than_eager(tokens, text, "triton", grad)
        assert torch.equal(
            patch_max_values(tokens, text, impl="triton"), patch_max(tokens, text, impl="triton")[0]
        )

    def test_ties_go_to_the_lowest_index(self) -> None:
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(-1, 2, (2, 90, 16), generator=generator).half()
        text = torch.randint(-1, 2, (40, 16), generator=generator).half()
        got = patch_max(tokens, text, impl="triton")
        expected = patch_max(tokens, text, impl="reference")
        assert torch.equal(got[0], expected[0])
        assert torch.equal(got[1], expected[1])
        everywhere = patch_max(torch.ones(1, 273, 16), torch.ones(2, 16), impl="triton")
        assert torch.equal(everywhere[1], torch.zeros(1, 2, dtype=torch.int64))

    def test_nan_gives_nan_and_an_index_in_range(self) -> None:
        tokens, text = torch.randn(3, 90, 16).half(), torch.randn(5, 16).half()
        tokens[0, 3, 2] = tokens[1, 88, 0] = float("nan")
        text[4, 1] = float("nan")
        values, indices = patch_max(tokens, text, impl="triton")
        expected = patch_max(tokens, text, impl="reference")[0]
        assert torch.equal(values.isnan(), expected.isnan())
        assert torch.equal(patch_max_values(tokens, text, impl="triton").isnan(), expected.isnan())
        assert indices.min() >= 0
        assert indices.max() < 90

    def test_infinities(self) -> None:
        tokens = torch.full((1, 20, 16), float("-inf")).half()
        values, indices = patch_max(tokens, torch.ones(1, 16).half(), impl="triton")
        assert (values.item(), indices.item()) == (float("-inf"), 0)

    def test_empty_sizes(self) -> None:
        for B, C in ((0, 3), (2, 0)):
            tokens = torch.ones(B, 5, 16, requires_grad=True)
            text = torch.ones(C, 16, requires_grad=True)
            values, indices = patch_max(tokens, text, impl="triton")
            grads = torch.autograd.grad(values.sum(), (tokens, text))
            assert values.shape == indices.shape == (B, C)
            assert not any(grad.any() for grad in grads)

    def test_views(self) -> None:
        from test_patch_max import assert_no_worse_than_eager, inputs

        tokens, text, grad = inputs(2, 40, 20, 32, torch.float16, False)
        assert_no_worse_than_eager(tokens[:, 1:], text, "triton", grad)  # patches alone
        assert_no_worse_than_eager(tokens[..., 8:24], text[..., 4:20], "triton", grad)  # unaligned
        assert_no_worse_than_eager(tokens.mT.contiguous().mT, text, "triton", grad)
        assert_no_worse_than_eager(tokens, text.expand(2, 20, 32), "triton", grad)

    def test_a_token_that_never_wins_gets_exactly_zero(self) -> None:
        from test_patch_max import inputs, run

        tokens, text, grad = inputs(2, 70, 5, 16, torch.float16, False)
        _, indices, grad_tokens, _ = run(tokens, text, grad, "triton")
        lost = torch.ones(2, 70, dtype=torch.bool).scatter(1, indices, False)
        assert not grad_tokens[lost].any()
        assert grad_tokens[~lost].any()

    def test_small_half_precision_gradients_do_not_underflow(self) -> None:
        from test_patch_max import error, exact_gradients, run

        tokens, text = torch.randn(2, 9, 16).half(), 256 * torch.randn(200, 16).half()
        grad = torch.full((2, 200), 3e-8)
        _, indices, grad_tokens, _ = run(tokens, text, grad, "triton")
        assert error(grad_tokens, exact_gradients(grad, indices, tokens, text)[0]) < 2e-2
        for size in (0.0, 1e-42, 1e38):  # zero, subnormal, large: the scale stays a power of two
            values = run(tokens, text, torch.full((2, 200), size), "triton")[2]
            assert not values.isnan().any()

    def test_offsets_beyond_32_bits(self) -> None:
        # Four GiB of address space of which a few pages are touched. The images lie 2³¹ elements
        # apart, and so do the first and last tile of texts.
        storage = torch.empty(2**31 + 2**25, dtype=torch.float16)
        tokens = storage.as_strided((2, 3, 16), (2**31 + 64, 16, 1))
        text = storage.as_strided((130, 16), (2**24, 1), 1024)
        tokens.copy_(torch.randn(2, 3, 16))
        text.copy_(torch.randn(130, 16))
        with pytest.MonkeyPatch.context() as patch:
            # the interpreter would copy the storage back onto itself, all of it
            from triton.runtime.interpreter import GridExecutor

            patch.setattr(GridExecutor, "_restore_args_dev", lambda *arguments: None)
            got = patch_max(tokens, text, impl="triton")
        expected = patch_max(tokens.float(), text.float(), impl="reference")
        torch.testing.assert_close(got[0], expected[0], atol=1e-4, rtol=1e-4)
        assert torch.equal(got[1], expected[1])


@pytest.mark.skipif(not INTERPRETED, reason="run by test_the_interpreter_agrees...")
class TestInterpretedPlainly:
    """Without the shortcut of `fast_interpreter`: the kernel's own reduction."""

    def test_the_nan_keeping_maximum(self) -> None:
        tokens, text = torch.randn(1, 5, 16).half(), torch.randn(2, 16).half()
        tokens[0, 3, 2] = float("nan")
        assert patch_max(tokens, text, impl="triton")[0].isnan().all()
        got = patch_max(tokens[:, :3], text, impl="triton")
        expected = patch_max(tokens[:, :3].float(), text.float(), impl="reference")
        torch.testing.assert_close(got[0], expected[0])
        assert torch.equal(got[1], expected[1])


# ---- machine code, compiled ahead of time ----


def shipped(architecture: str, *, every: bool) -> Iterator[dict]:
    """The kernels to compile for an architecture; `every` takes all shapes a plan can have."""
    descriptors = architecture != "sm_80"
    dtypes = ("bf16", "fp16", "fp32") if every else ("bf16",)
    for dtype in dtypes:
        for T in range(1, 1200) if every else TOKEN_COUNTS:
            plan = forward_plan(T, DTYPES[dtype], descriptors=descriptors)
            shape = (min(plan.passes, 1), plan.widths)
            for per_image, with_indices in VARIANTS if every else VARIANTS[:1]:
                yield {
                    "kernel": "forward",
                    "dtype": dtype,
                    "T": T,
                    "shape": shape,
                    "per_image": per_image,
                    "with_indices": with_indices,
                    "descriptors": descriptors,
                }
        yield {"kernel": "token_grad", "dtype": dtype, "descriptors": descriptors}
        yield {"kernel": "text_grad", "dtype": dtype}


def compile_shipped(architecture: str, every: bool) -> Iterator[dict]:
    """Compile each kernel of `shipped` once and yield it with the facts of its machine code."""
    from czsl_sac.kernels import triton_backward, triton_forward

    seen = set()
    for case in shipped(architecture, every=every):
        key = json.dumps({**case, "T": None})
        if key in seen:
            continue
        seen.add(key)
        dtype, per_image = DTYPES[case["dtype"]], case.get("per_image", False)
        if case["kernel"] == "forward":
            plan = forward_plan(case["T"], dtype, descriptors=case["descriptors"])
            kernel, warps = triton_forward.forward_kernel, plan.warps
            constants = triton_forward.constants(
                plan,
                case["T"],
                768,
                per_image=per_image,
                with_indices=case["with_indices"],
            )
            types = sources(plan, constants, case["dtype"])
            if not constants["INDICES"]:
                constants["indices"] = None
        elif case["kernel"] == "token_grad":
            plan = token_grad_plan(dtype, descriptors=case["descriptors"])
            kernel, warps = triton_backward.token_grad_kernel, plan.warps
            constants = triton_backward.token_grad_constants(plan, dtype, 768, per_image=per_image)
            types = {"text": f"*{case['dtype']}", "out": f"*{case['dtype']}"}
            if plan.descriptors:
                types["text"] = f"tensordesc<{case['dtype']}[1,{plan.depth},{plan.features}]>"
        else:
            kernel, warps = triton_backward.text_grad_kernel, TEXT_GRAD_WARPS
            constants = {"PER_IMAGE": 0, "BC": TEXT_GRAD_BLOCK[0], "BD": TEXT_GRAD_BLOCK[1]}
            types = {"tokens": f"*{case['dtype']}", "out": f"*{case['dtype']}"}
        yield {**case, **machine_code(kernel, types, constants, warps, architecture)}


def sources(plan: ForwardPlan, constants: dict, dtype: str) -> dict[str, str]:
    """Types of the forward kernel's tokens and texts; an absent one becomes a constant."""
    widths = {
        "text": plan.texts,
        "full": constants["FULL"],
        "part_0": constants["W0"],
        "part_1": constants["W1"],
        "part_2": constants["W2"],
    }
    types = {}
    for name, rows in widths.items():
        if not plan.descriptors:
            types[name] = f"*{dtype}"
        elif rows:
            types[name] = f"tensordesc<{dtype}[1,{rows},{plan.depth}]>"
        else:
            constants[name] = None
    return types


def machine_code(kernel, types: dict, constants: dict, warps: int, architecture: str) -> dict:
    """Compile a kernel for an architecture and count what its machine code uses."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = {"values": "*fp32", "grad": "*fp32", "indices": "*i64", **types}
    names = kernel.arg_names
    signature = {
        name: "constexpr" if name in constants else types.get(name, "i32") for name in names
    }
    aligned = [
        (place,)
        for place, name in enumerate(names)
        if signature[name].startswith("*")
        or (signature[name] == "i32" and (name == "D" or "stride" in name))
    ]
    compiled = triton.compile(
        ASTSource(
            fn=kernel,
            signature=signature,
            constexprs={(names.index(name),): value for name, value in constants.items()},
            attrs={place: [["tt.divisibility", 16]] for place in aligned},
        ),
        target=GPUTarget("cuda", int(architecture.removeprefix("sm_")), 32),
        options={"num_warps": warps},
    )
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = subprocess.check_output([tools / "cuobjdump", "-res-usage", file.name], text=True)
        listing = subprocess.check_output([tools / "nvdisasm", "-c", file.name], text=True)
    used = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
    assert used is not None, usage
    registers, stack, local = map(int, used.groups())
    found = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_]+)", listing)
    return {
        "registers": registers,
        "stack": stack,
        "local": local,
        "shared": compiled.metadata.shared,
        "instructions": dict(Counter(found)),
    }


@pytest.fixture(scope="module", params=list(SHARED_LIMIT))
def compiled(request: pytest.FixtureRequest) -> tuple[str, list[dict]]:
    out = separate(__file__, request.param, interpret=False)
    return request.param, [json.loads(line) for line in out.splitlines()]


@pytest.mark.skipif(INTERPRETED, reason="kernels are interpreted in this process's children, too")
class TestCompiled:
    """Gates on the machine code. No GPU is needed; what runs on one is not shown here."""

    def test_gates(self, compiled: tuple[str, list[dict]]) -> None:
        check_gates(*compiled)

    def test_what_the_design_rests_on(self, compiled: tuple[str, list[dict]]) -> None:
        architecture, cases = compiled
        if architecture == "sm_80":
            assert all("LDGSTS" in case["instructions"] for case in forwards(cases))
            return
        for case in forwards(cases):
            counts = case["instructions"]
            assert "UTMALDG" in counts  # texts and tokens by TMA
            # the maximum stays inside threads, nearly: 4 rows of a thread in 2 exchanges each
            products = len(case["shape"][1]) + case["shape"][0]
            assert counts.get("SHFL", 0) <= 8 * products
            assert case["registers"] < 200


def forwards(cases: list[dict]) -> list[dict]:
    return [case for case in cases if case["kernel"] == "forward"]


def check_gates(architecture: str, cases: list[dict]) -> None:
    """Nothing spilled, shared memory within the limit, tensor cores used."""
    for case in cases:
        named = {k: v for k, v in case.items() if k != "instructions"}
        assert case["stack"] == 0, named
        assert case["local"] == 0, named
        assert case["shared"] <= SHARED_LIMIT[architecture], named
        if case["kernel"] != "text_grad" and case["dtype"] != "fp32":
            assert case["instructions"].get(MATRIX_INSTRUCTION[architecture], 0) > 0, named


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="kernels are interpreted in this process's children, too")
@pytest.mark.parametrize("architecture", SHARED_LIMIT)
def test_gates_of_every_shape_a_plan_can_have(architecture: str) -> None:
    out = separate(__file__, architecture, "every", interpret=False)
    cases = [json.loads(line) for line in out.splitlines()]
    assert len(cases) > 60
    check_gates(architecture, cases)


# ---- on a GPU ----


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize(
    ("B", "T", "C", "D"),
    [(16, 257, 5592, 768), (3, 197, 83, 512), (5, 577, 130, 768), (2, 50, 300, 80), (1, 1, 1, 16)],
)
def test_on_a_gpu(B: int, T: int, C: int, D: int, per_image: bool, dtype: torch.dtype) -> None:
    from test_patch_max import assert_no_worse_than_eager, inputs

    tokens, text, grad = (x.cuda() for x in inputs(B, T, C, D, dtype, per_image))
    assert_no_worse_than_eager(tokens, text, "triton", grad)
    assert_no_worse_than_eager(tokens, text, "chunked", grad)


if __name__ == "__main__":
    for line in compile_shipped(sys.argv[1], every="every" in sys.argv[2:]):
        print(json.dumps(line), flush=True)

"""Compile the Triton kernels ahead of time and print the facts of their machine code.

    python tests/compile_kernels.py sm_80,sm_90,sm_100
    python tests/compile_kernels.py sm_90 every

No GPU is needed. One line of JSON per kernel; `every` takes all shapes that a plan can have. A
program of its own, since Triton decides at import whether kernels are interpreted.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from czsl_sac.kernels import triton_backward, triton_forward
from czsl_sac.kernels.plan import (
    TEXT_GRAD_BLOCK,
    TEXT_GRAD_WARPS,
    ForwardPlan,
    forward_plan,
    token_grad_plan,
)

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# Of the forward kernel: (text per image, with indices).
VARIANTS = ((False, True), (False, False), (True, True))
# Tokens of CLIP's vision towers that differ in what a plan does: B/16, L/14, L/14 at 336 pixels.
TOKEN_COUNTS = (197, 257, 577)


def shipped(architecture: str, *, every: bool) -> Iterator[dict]:
    """The kernels to compile for an architecture; `every` takes all shapes a plan can have.

    A GPU with TMA loads by pointers, too: unaligned inputs, and any with a Triton before 3.4.
    """
    if not every:
        for descriptors in {"sm_80": (False,), "sm_90": (True, False), "sm_100": (True,)}[
            architecture
        ]:
            main = architecture == "sm_80" or descriptors
            for T in TOKEN_COUNTS if main else (257,):
                yield forward_case("bf16", T, descriptors, per_image=False, with_indices=True)
            yield {"kernel": "token_grad", "dtype": "bf16", "descriptors": descriptors}
        yield {"kernel": "text_grad", "dtype": "bf16"}
        return
    for dtype in DTYPES:
        for descriptors in (
            (False,) if architecture == "sm_80" or dtype == "fp32" else (True, False)
        ):
            for T in range(1, 1200):
                for per_image, with_indices in VARIANTS:
                    yield forward_case(
                        dtype, T, descriptors, per_image=per_image, with_indices=with_indices
                    )
            for per_image in (False, True):
                yield {
                    "kernel": "token_grad",
                    "dtype": dtype,
                    "descriptors": descriptors,
                    "per_image": per_image,
                }
        for per_image in (False, True):
            yield {"kernel": "text_grad", "dtype": dtype, "per_image": per_image}


def forward_case(
    dtype: str, T: int, descriptors: bool, *, per_image: bool, with_indices: bool
) -> dict:
    """One forward kernel; `shape` says what of the plan reaches the compiler."""
    plan = forward_plan(T, DTYPES[dtype], descriptors=descriptors)
    return {
        "kernel": "forward",
        "dtype": dtype,
        "T": T,
        "shape": (min(plan.passes, 1), plan.widths),
        "per_image": per_image,
        "with_indices": with_indices,
        "descriptors": descriptors,
    }


def compile_shipped(architecture: str, *, every: bool) -> Iterator[dict]:
    """Compile each kernel of `shipped` once and yield it with the facts of its machine code."""
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
                plan, case["T"], 768, per_image=per_image, with_indices=case["with_indices"]
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
            BC, BD = TEXT_GRAD_BLOCK
            constants = {"PER_IMAGE": int(per_image), "BC": BC, "BD": BD}
            types = {"tokens": f"*{case['dtype']}", "out": f"*{case['dtype']}"}
        yield {
            "architecture": architecture,
            **case,
            **machine_code(kernel, types, constants, warps, architecture),
        }


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
        listing = subprocess.check_output(
            [tools / "nvdisasm", "-c", file.name], text=True, stderr=subprocess.DEVNULL
        )
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


if __name__ == "__main__":
    for architecture in sys.argv[1].split(","):
        for line in compile_shipped(architecture, every="every" in sys.argv[2:]):
            print(json.dumps(line), flush=True)

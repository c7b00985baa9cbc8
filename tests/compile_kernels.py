"""Compile the Triton kernels ahead of time and print the facts of their machine code.

    python tests/compile_kernels.py sm_80,sm_90,sm_100

No GPU is needed. Every configuration that a plan can have is compiled, one line of JSON each; those
of CLIP's token counts in bfloat16 are disassembled, too, which takes as long again. A program of
its own, since Triton decides at import whether kernels are interpreted.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

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
# Past this, a plan only makes more passes of a kernel that a smaller count has already.
MOST_TOKENS = 1200
# Tokens of CLIP's vision towers that differ in what a plan does: B/16, L/14, L/14 at 336 pixels.
TOKEN_COUNTS = (197, 257, 577)
# D: of CLIP, and one that no step of a kernel divides.
EVEN, RAGGED = 768, 752


def shipped(architecture: str) -> Iterator[dict]:
    """The kernels to compile for an architecture, each once.

    float32 loads by pointers, half precision by TMA where the GPU has it; by pointers on a GPU of
    compute capability 9 with a Triton before 3.4, too.
    """
    loads = {"sm_80": (False,), "sm_90": (True, False), "sm_100": (True,)}[architecture]
    for dtype in DTYPES:
        for descriptors in (False,) if dtype == "fp32" else loads:
            yield from forward_cases(dtype, descriptors=descriptors)
            for per_image in (False, True):
                yield {
                    "kernel": "token_grad",
                    "dtype": dtype,
                    "descriptors": descriptors,
                    "per_image": per_image,
                }
        for per_image in (False, True):
            yield {"kernel": "text_grad", "dtype": dtype, "per_image": per_image}


def forward_cases(dtype: str, *, descriptors: bool) -> Iterator[dict]:
    """The forward kernels of a dtype; the counts of CLIP stand for all with the same plan."""
    seen = set()
    # a load by TMA pads by itself
    ragged = () if descriptors else product(TOKEN_COUNTS, (RAGGED,))
    for T, D in (*product((*TOKEN_COUNTS, *range(1, MOST_TOKENS)), (EVEN,)), *ragged):
        plan = forward_plan(T, DTYPES[dtype], descriptors=descriptors)
        shape = (min(plan.passes, 1), plan.widths)
        if (shape, D) in seen:
            continue
        seen.add((shape, D))
        for per_image, with_indices in VARIANTS:
            yield {
                "kernel": "forward",
                "dtype": dtype,
                "T": T,
                "D": D,
                "shape": shape,
                "per_image": per_image,
                "with_indices": with_indices,
                "descriptors": descriptors,
            }


def compile_case(architecture: str, case: dict) -> dict:
    """Compile one kernel and return it with the facts of its machine code."""
    dtype, per_image = DTYPES[case["dtype"]], case["per_image"]
    if case["kernel"] == "forward":
        plan = forward_plan(case["T"], dtype, descriptors=case["descriptors"])
        kernel, warps = triton_forward.forward_kernel, plan.warps
        constants = triton_forward.constants(
            plan, case["T"], case["D"], per_image=per_image, with_indices=case["with_indices"]
        )
        types = sources(plan, constants, case["dtype"])
        if not constants["INDICES"]:
            constants["indices"] = None
    elif case["kernel"] == "token_grad":
        plan = token_grad_plan(dtype, descriptors=case["descriptors"])
        kernel, warps = triton_backward.token_grad_kernel, plan.warps
        constants = triton_backward.token_grad_constants(plan, dtype, EVEN, per_image=per_image)
        types = {"text": f"*{case['dtype']}", "out": f"*{case['dtype']}"}
        if plan.descriptors:
            types["text"] = f"tensordesc<{case['dtype']}[1,{plan.depth},{plan.features}]>"
    else:
        kernel, warps = triton_backward.text_grad_kernel, TEXT_GRAD_WARPS
        BC, BD = TEXT_GRAD_BLOCK
        constants = {"PER_IMAGE": int(per_image), "BC": BC, "BD": BD}
        types = {"tokens": f"*{case['dtype']}", "out": f"*{case['dtype']}"}
    compiled = compile_kernel(kernel, types, constants, warps, architecture)
    facts = usage(compiled)
    if case["dtype"] == "bf16" and case.get("T") in TOKEN_COUNTS:
        facts["instructions"] = disassemble(compiled)
    return {"architecture": architecture, **case, **facts}


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


def compile_kernel(
    kernel, types: dict, constants: dict, warps: int, architecture: str
) -> CompiledKernel:
    """Compile a kernel for an architecture."""
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
    return triton.compile(
        ASTSource(
            fn=kernel,
            signature=signature,
            constexprs={(names.index(name),): value for name, value in constants.items()},
            attrs={place: [["tt.divisibility", 16]] for place in aligned},
        ),
        target=GPUTarget("cuda", int(architecture.removeprefix("sm_")), 32),
        options={"num_warps": warps},
    )


def usage(compiled: CompiledKernel) -> dict:
    """Registers, bytes of stack and of memory, and how often PTX multiplies matrices."""
    found = re.search(
        r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)",
        run_tool(compiled, "cuobjdump", "-res-usage"),
    )
    assert found is not None
    registers, stack, local = map(int, found.groups())
    products = re.findall(r"\b(?:mma\.sync|wgmma\.mma_async|tcgen05\.mma)\.", compiled.asm["ptx"])
    return {
        "registers": registers,
        "stack": stack,
        "local": local,
        "shared": compiled.metadata.shared,
        "products": dict(Counter(products)),
    }


def disassemble(compiled: CompiledKernel) -> dict[str, int]:
    """How often the machine code has each instruction."""
    listing = run_tool(compiled, "nvdisasm", "-c")
    found = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_]+)", listing)
    return dict(Counter(found))


def run_tool(compiled: CompiledKernel, tool: str, option: str) -> str:
    """What a tool that Triton brings along says about the machine code."""
    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        return subprocess.check_output(
            [folder / tool, option, file.name], text=True, stderr=subprocess.DEVNULL
        )


def main(architectures: list[str]) -> None:
    """Compile on all cores, and print the facts as they come."""
    cases = [(name, case) for name in architectures for case in shipped(name)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for facts in pool.map(compile_case, *zip(*cases, strict=True)):
            print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main(sys.argv[1].split(","))

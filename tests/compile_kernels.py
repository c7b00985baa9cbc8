"""Compile the Triton kernels ahead of time and print the facts of their machine code.

    python tests/compile_kernels.py sm_80,sm_90,sm_100
    python tests/compile_kernels.py sm_90 few

No GPU is needed. Every configuration that a plan can have is compiled, or one of each kind, one
line of JSON each; those of CLIP's token counts in bfloat16 are disassembled, too, which takes as
long again. A program of its own, since Triton decides at import whether kernels are interpreted.
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
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

from czsl_sac.kernels import triton_backward, triton_forward
from czsl_sac.kernels.plan import (
    LAST_TOKEN_WARPS,
    ORDER_WARPS,
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
# C of C-GQA's training set; 83, of UT-Zappos', takes the other plan for few texts.
MANY = 5592


def shipped(architecture: str) -> Iterator[dict]:
    """The kernels to compile for an architecture, each once.

    float32 loads by pointers, half precision by TMA where the GPU has it; by pointers on a GPU of
    compute capability 9 with a Triton before 3.4, too.
    """
    loads = {"sm_80": (False,), "sm_90": (True, False), "sm_100": (True,)}[architecture]
    for dtype in DTYPES:
        for descriptors in (False,) if dtype == "fp32" else loads:
            yield from forward_cases(dtype, descriptors=descriptors, waves=False)
            if descriptors and architecture == "sm_90":
                yield from forward_cases(dtype, descriptors=True, waves=True)
                for B, D in product((16, 64), (EVEN, RAGGED)):
                    yield {"kernel": "last_token", "dtype": dtype, "B": B, "D": D}
        for C, per_image in product((MANY, 83), (False, True)):
            yield {"kernel": "token_grad", "dtype": dtype, "C": C, "per_image": per_image}
        for C in (MANY, 83):
            yield {"kernel": "order", "dtype": dtype, "C": C}
        for per_image in (False, True):
            yield {"kernel": "text_grad", "dtype": dtype, "per_image": per_image}


def few(architecture: str) -> Iterator[dict]:
    """One kernel of each kind in bfloat16, at the sizes of the paper's CLIP."""
    kinds = set()
    for case in shipped(architecture):
        kind = (case["kernel"], case.get("persistent"), case.get("descriptors"))
        if case["dtype"] == "bf16" and case.get("T", 257) == 257 and kind not in kinds:
            kinds.add(kind)
            yield case


def forward_cases(dtype: str, *, descriptors: bool, waves: bool) -> Iterator[dict]:
    """The forward kernels of a dtype; the counts of CLIP stand for all with the same plan."""
    seen = set()
    # a load by TMA pads by itself
    ragged = () if descriptors else product(TOKEN_COUNTS, (RAGGED,))
    counts = (*product((*TOKEN_COUNTS, *range(1, MOST_TOKENS)), (EVEN,)), *ragged)
    for (T, D), (per_image, with_indices) in product(counts, VARIANTS):
        plan = forward_plan(
            T, DTYPES[dtype], descriptors=descriptors, waves=waves, per_image=per_image
        )
        if waves and not plan.persistent:
            continue
        shape = (min(plan.passes, 1), plan.widths, plan.last)
        masked = plan.passes * plan.full + sum(plan.widths) + plan.last != T
        # a whole last product stands for its masked one but in persistent programs
        key = (shape, D, per_image, with_indices, waves and masked)
        if key in seen:
            continue
        seen.add(key)
        yield {
            "kernel": "forward",
            "dtype": dtype,
            "T": T,
            "D": D,
            "shape": shape,
            "per_image": per_image,
            "with_indices": with_indices,
            "descriptors": descriptors,
            "persistent": waves,
        }


def compile_case(architecture: str, case: dict) -> dict:
    """Compile one kernel and return it with the facts of its machine code."""
    kernel, types, constants, warps = KINDS[case["kernel"]](case, DTYPES[case["dtype"]])
    compiled = compile_kernel(kernel, types, constants, warps, architecture)
    facts = usage(compiled)
    if case["dtype"] == "bf16" and case.get("T") in TOKEN_COUNTS:
        facts["instructions"] = disassemble(compiled)
    return {"architecture": architecture, **case, **facts}


Parts = tuple[Any, dict[str, str], dict[str, Any], int]


def forward_parts(case: dict, dtype: torch.dtype) -> Parts:
    """Kernel, types, constants and warps of a case of the forward kernel."""
    plan = forward_plan(
        case["T"],
        dtype,
        descriptors=case["descriptors"],
        waves=case["persistent"],
        per_image=case["per_image"],
    )
    constants = triton_forward.constants(
        plan,
        case["T"],
        case["D"],
        per_image=case["per_image"],
        with_indices=case["with_indices"],
    )
    types = sources(plan, constants, case["dtype"])
    if not constants["INDICES"]:
        constants["indices"] = None
    return triton_forward.forward_kernel, types, constants, plan.warps


def last_token_parts(case: dict, dtype: torch.dtype) -> Parts:
    """Of the product for one token an image."""
    constants = triton_forward.last_token_constants(case["B"], case["D"])
    types = {"text": f"*{case['dtype']}", "token": f"*{case['dtype']}"}
    return triton_forward.last_token_kernel, types, constants, LAST_TOKEN_WARPS


def token_grad_parts(case: dict, dtype: torch.dtype) -> Parts:
    """Of the gradient of the tokens."""
    plan = token_grad_plan(case["C"], dtype)
    constants = triton_backward.token_grad_constants(plan, dtype, per_image=case["per_image"])
    types = {"text": f"*{case['dtype']}", "out": f"*{case['dtype']}", "keys": "*i32"}
    return triton_backward.token_grad_kernel, types, constants, plan.warps


def order_parts(case: dict, dtype: torch.dtype) -> Parts:
    """Of the kernel that brings the wins in the order of tokens."""
    plan = token_grad_plan(case["C"], dtype)
    constants = triton_backward.order_constants(plan, dtype)
    return triton_backward.order_kernel, {"keys": "*i32"}, constants, ORDER_WARPS


def text_grad_parts(case: dict, dtype: torch.dtype) -> Parts:
    """Of the gradient of the text."""
    constants = triton_backward.text_grad_constants(per_image=case["per_image"])
    types = {"tokens": f"*{case['dtype']}", "out": f"*{case['dtype']}"}
    return triton_backward.text_grad_kernel, types, constants, TEXT_GRAD_WARPS


KINDS = {
    "forward": forward_parts,
    "last_token": last_token_parts,
    "token_grad": token_grad_parts,
    "order": order_parts,
    "text_grad": text_grad_parts,
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


def compile_kernel(
    kernel, types: dict, constants: dict, warps: int, architecture: str
) -> CompiledKernel:
    """Compile a kernel for an architecture."""
    buffers = {"values": "*fp32", "grad": "*fp32", "weights": "*fp32", "shrinks": "*fp32"}
    types = {**buffers, "indices": "*i64", "starts": "*i32", **types}
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


def main(architectures: list[str], *, everything: bool) -> None:
    """Compile on all cores, and print the facts as they come."""
    cases = shipped if everything else few
    chosen = [(name, case) for name in architectures for case in cases(name)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for facts in pool.map(compile_case, *zip(*chosen, strict=True)):
            print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main(sys.argv[1].split(","), everything="few" not in sys.argv[2:])

"""`czsl-sac info`: versions, devices and kernels, to paste into a report of a problem."""

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from czsl_sac._version import __version__
from czsl_sac.cli.options import parse_options

_VARIABLES = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "WORLD_SIZE")
_REQUIRED = (
    *("torch", "torchvision", "openai-clip", "loralib", "numpy", "scipy", "pandas", "tabulate"),
    *("pillow", "tqdm", "safetensors", "accelerate", "filelock", "tyro", "jinja2"),
)
_OPTIONAL = ("triton", "matplotlib", "pyarrow", "open_clip_torch", "transformers", "setuptools")


@dataclass(frozen=True)
class InfoOptions:
    """Show versions, devices, and which implementation of patch_max runs on each device."""


def run(arguments: list[str]) -> int:
    """Run the command.

    Args:
        arguments: its options; there are none but help.
    """
    parse_options(InfoOptions, "info", arguments)
    rows = [("czsl-sac", __version__), ("python", platform.python_version())]
    rows += [("system", platform.platform())]
    rows += [(package, _version(package)) for package in _REQUIRED + _OPTIONAL]
    rows += _devices()
    rows += [(name, os.environ[name]) for name in _VARIABLES if name in os.environ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
    return 0


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed" + (" (optional)" if package in _OPTIONAL else "")


def _devices() -> Iterator[tuple[str, str]]:
    import torch

    yield "cpu", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    yield "patch_max on cpu", _rule("cpu")
    if not torch.cuda.is_available():
        yield "cuda", "no device"
        return
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        memory = device.total_memory / 2**30
        capability = f"{device.major}.{device.minor}"
        yield f"cuda:{index}", f"{device.name}, {memory:.0f} GiB, compute capability {capability}"
    yield "cuda version", str(torch.version.cuda)
    yield "patch_max on cuda", _rule("cuda")


def _rule(device: str) -> str:
    """What `impl="auto"` takes on a device."""
    import torch

    from czsl_sac.kernels import chunked
    from czsl_sac.kernels.dispatch import SMALL
    from czsl_sac.kernels.library import implementation

    above = []
    for dtype in (torch.float32, torch.bfloat16):
        serves = implementation("auto", torch.empty(1, 1, 64, dtype=dtype, device=device))
        above.append("chunked" if serves is chunked else "triton")
    values, gradients = SMALL[device]
    return (
        f"reference up to B·T·C = {values:,}, {gradients:,} with gradients; above that {above[0]} "
        f"in float32, {above[1]} in bfloat16"
    )

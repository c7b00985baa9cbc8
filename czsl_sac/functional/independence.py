"""How far two sets of features depend on each other."""

import torch
from torch import Tensor

from czsl_sac.functional.precision import at_least_float32, without_autocast

_TINY = 1e-12


def hsic(x: Tensor, y: Tensor) -> Tensor:
    """Return the Hilbert-Schmidt independence criterion, normalised to [0, 1].

    HSIC(x, y) / √(HSIC(x, x) HSIC(y, y)), where HSIC is the trace of the product of the centred
    kernel matrices (Gretton et al., ALT 2005). Kernels are Gaussian, their bandwidth the median
    distance of the batch, through which no gradient flows.

    Args:
        x: `[n, D]`, row i belonging to row i of `y`.
        y: `[n, E]`.

    Returns:
        Scalar; 0 for independent features, 1 where the kernels agree, 0 for a single row.

    Examples:
        >>> x = torch.tensor([[0.0], [1.0], [3.0], [4.0]])
        >>> round(float(hsic(x, 2 * x)), 4), round(float(hsic(x, torch.ones(4, 1))), 4)
        (1.0, 0.0)
    """
    if len(x) < 2:
        return 0.0 * (x.sum() + y.sum())
    with without_autocast(x):  # differences of near distances
        kernel_x, kernel_y = (_centred_kernel(at_least_float32(rows)) for rows in (x, y))
    own = (kernel_x * kernel_x).sum() * (kernel_y * kernel_y).sum()
    return (kernel_x * kernel_y).sum() / own.clamp_min(_TINY).sqrt()


def _centred_kernel(x: Tensor) -> Tensor:
    squares = (x * x).sum(dim=1)
    distances = (squares[:, None] + squares - 2 * x @ x.mT).clamp_min(0)
    pairs = torch.triu_indices(len(x), len(x), offset=1, device=x.device)
    bandwidth = distances.detach()[pairs[0], pairs[1]].median().clamp_min(_TINY)
    kernel = torch.exp(-distances / (2 * bandwidth))
    kernel = kernel - kernel.mean(dim=0)
    return kernel - kernel.mean(dim=1, keepdim=True)

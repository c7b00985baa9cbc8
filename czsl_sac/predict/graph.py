"""A prediction as one graph: pixels in; likeliest compositions, attributes and objects out."""

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrize

from czsl_sac.blocks.alignment import PatchMaxAligner
from czsl_sac.clip.backbone import CLIPBackbone
from czsl_sac.methods.base import CZSLMethod, Predictor
from czsl_sac.predict.predictions import marginals

OUTPUTS = ("indices", "probabilities", "attributes", "objects")
"""Names of what the graph gives, in this order."""


class PixelPredictor(nn.Module):
    """A method's prediction as a module of pixels.

    Args:
        predictor: over the candidates; what it is asked changes nothing in it.
        backbone: whose mean and deviation normalise the pixels.
        top: K, compositions to name; all of them where there are fewer.

    Shape:
        images `[B, H, W, 3]` uint8, RGB → indices into `predictor.space.pairs` `[B, K]` int64,
        likeliest first; their probabilities `[B, K]`; marginals of the attributes `[B, A]` and of
        the objects `[B, O]`.

    Examples:
        >>> from czsl_sac import CompositionSpace, load_backbone
        >>> from czsl_sac.methods.registry import method_class, method_options
        >>> space = CompositionSpace.closed_world([("red", "car"), ("blue", "car"), ("red", "cup")])
        >>> options = method_options("zero-shot")()
        >>> method = method_class(options).build(options, load_backbone("tiny"), space).eval()
        >>> model = PixelPredictor(method.predictor(space), method.backbone, top=2)
        >>> outputs = model(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
        >>> [tuple(output.shape) for output in outputs]
        [(1, 2), (1, 2), (1, 2), (1, 2)]
    """

    mean: Tensor
    std: Tensor

    def __init__(self, predictor: Predictor, backbone: CLIPBackbone, *, top: int) -> None:
        super().__init__()
        self.predictor, self.top = predictor, min(top, len(predictor.space))
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(backbone, name))[:, None, None])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what `OUTPUTS` names."""
        pixels = images.permute(0, 3, 1, 2).float() / 255
        scores = self.predictor((pixels - self.mean) / self.std)
        probabilities = self.predictor.probabilities(scores).float()
        attributes, objects = marginals(probabilities, self.predictor.space)
        best, indices = probabilities.topk(self.top, dim=1)
        return indices, best, attributes, objects


def trace(method: CZSLMethod, model: PixelPredictor, images: Tensor) -> ExportedProgram:
    """Return the graph of a prediction, for any number of images.

    Args:
        method: on the CPU, in float32; it is changed, and good for nothing but this afterwards.
        model: the method's prediction.
        images: to trace it by, `[B, H, W, 3]` uint8, B at least 2.
    """
    method.requires_grad_(False)
    for part in method.modules():
        if isinstance(part, PatchMaxAligner):
            part.impl = "reference"  # the others are operators of this package alone
    with torch.no_grad(), parametrize.cached():
        model(images)  # computes the weights that have LoRA, which are constants below
        return torch.export.export(model, (images,), dynamic_shapes=({0: Dim("batch")},))


def decomposed(program: ExportedProgram) -> ExportedProgram:
    """Return the graph with attention as matrix products, for who knows no attention of 5 axes."""
    with sdpa_kernel(SDPBackend.MATH):
        return program.run_decompositions()

"""`torch.export` of a prediction holds for every number of images, whatever it was traced by."""

import pytest
import torch
from plain_parts import SPACES, batch, random_backbone, randomize
from tiny_runs import options_of
from torch import Tensor, nn

from czsl_sac.blocks import EntropyMemoryBank
from czsl_sac.methods.predictor import Predictor
from czsl_sac.predict.predictions import marginals
from czsl_sac.training.build import build_method
from czsl_sac.training.config import TrainConfig

SPACE = SPACES["usual"]


class Exported(nn.Module):
    """A predictor's probabilities and marginals as a module."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.predictor = predictor

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        probabilities = self.predictor.probabilities(self.predictor(images))
        return (probabilities, *marginals(probabilities, SPACE))


@pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="needs torch 2.7")
@pytest.mark.parametrize("chunk_size", [2**14, 4])
def test_sac_with_a_filled_bank_exports_for_any_batch(chunk_size: int) -> None:
    torch.manual_seed(0)
    options = options_of("sac", bank="train", num_blocks=1, num_heads=1, capacity=2)
    method = build_method(TrainConfig(method=options), random_backbone().float(), SPACE).eval()
    randomize(method)
    method.requires_grad_(False)
    method.fill_memory([batch(method.backbone, SPACE, 5)[0].float()])
    predictor = method.predictor(SPACE)
    predictor.chunk_size = chunk_size
    model, images = Exported(predictor), batch(method.backbone, SPACE, 7)[0].float()
    with torch.no_grad():
        sizes = ({0: torch.export.Dim("batch")},)
        program = torch.export.export(model, (images[:3],), dynamic_shapes=sizes)
        for count in (1, 3, 7):
            for found, expected in zip(
                program.module()(images[:count]), model(images[:count]), strict=True
            ):
                torch.testing.assert_close(found, expected)


@pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="needs torch 2.7")
def test_a_bank_is_printed_while_it_is_traced() -> None:
    """As torch 2.11 does; its number of samples is no number then."""
    bank, printed = EntropyMemoryBank(torch.eye(3), capacity=2), []
    bank.update(torch.eye(3)[:1], torch.tensor([[0.9, 0.05, 0.05]]))

    class Printed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bank = bank

        def forward(self, features: Tensor) -> Tensor:
            printed.append(repr(self.bank))
            logits: Tensor = self.bank(features)
            return logits

    torch.export.export(Printed(), (torch.eye(3),), strict=False)
    assert "samples=traced" in printed[0]
    assert "samples=1" in repr(bank)

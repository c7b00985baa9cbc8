"""Specificity of an attribute on an object, and the attribute's view without the object."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Denoise = Literal["gate", "projection", "none"]


class SpecificityLearner(nn.Module):
    """log g(a, o), g = sigmoid(MLP([t_a; t_o])): how much attribute a says of object o.

    Texts are read, not taught: no gradient reaches them.

    Args:
        dim: D.

    Shape:
        attributes `[A, D]`, objects `[O, D]` → `[A, O]`, not positive.

    Examples:
        >>> SpecificityLearner(8)(torch.randn(3, 8), torch.randn(5, 8)).shape
        torch.Size([3, 5])
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.of_attribute = nn.Linear(dim, dim)  # the two halves of one layer
        self.of_object = nn.Linear(dim, dim, bias=False)
        self.out = nn.Linear(dim, 1)

    def forward(self, attributes: Tensor, objects: Tensor) -> Tensor:
        """Return log g of every attribute with every object, `[A, O]`."""
        rows = self.of_attribute(attributes.detach()).unsqueeze(1)
        hidden = F.relu(rows + self.of_object(objects.detach()))
        return F.logsigmoid(self.out(hidden).squeeze(-1))


class AttributeDenoiser(nn.Module):
    """f_a − sigmoid(W [f_a; f_o]) ⊙ f_o, or f_a without its part along f_o.

    Args:
        dim: D.
        how: `"gate"`, the first; `"projection"`, the second; `"none"` returns f_a.

    Shape:
        attribute and object `[B, T, D]` → `[B, T, D]`.

    Examples:
        >>> view = torch.tensor([[[3.0, 4.0]]])
        >>> AttributeDenoiser(2, "projection")(view, torch.tensor([[[2.0, 0.0]]]))
        tensor([[[0., 4.]]])
    """

    def __init__(self, dim: int, how: Denoise = "gate") -> None:
        super().__init__()
        self.how = how
        self.gate: nn.Linear | None = None
        if how == "gate":
            self.gate = nn.Linear(2 * dim, dim)
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)

    def forward(self, attribute: Tensor, object_: Tensor) -> Tensor:
        """Return the attribute's view without what the object's holds."""
        if self.gate is not None:
            opening = torch.sigmoid(self.gate(torch.cat([attribute, object_], dim=-1)))
            return attribute - opening * object_
        if self.how == "none":
            return attribute
        unit = F.normalize(object_, dim=-1)
        return attribute - (attribute * unit).sum(dim=-1, keepdim=True) * unit


def ranking_loss(
    specificity: Tensor, diversity: Tensor, is_known: Tensor, *, margin: float
) -> Tensor:
    """Return the mean of max(0, m − g(a, o) + g(b, o)) over attributes a less diverse than b by m.

    Args:
        specificity: g of each attribute with the objects of a batch, `[A, B]`.
        diversity: of each attribute, `[A]`.
        is_known: which diversities are known, `[A]` bool.
        margin: m.

    Returns:
        Scalar; zero where no two attributes can be ranked.

    Examples:
        >>> specificity = torch.tensor([[0.2], [0.5]])
        >>> ranking_loss(specificity, torch.tensor([0.0, 1.0]), torch.ones(2).bool(), margin=0.1)
        tensor(0.4000)
    """
    is_ranked = diversity.unsqueeze(1) < diversity - margin
    is_ranked = is_ranked & is_known.unsqueeze(1) & is_known
    short = F.relu(margin - specificity.unsqueeze(1) + specificity).mean(dim=-1)
    return (short * is_ranked).sum() / is_ranked.sum().clamp(min=1)

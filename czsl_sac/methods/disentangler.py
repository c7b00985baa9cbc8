"""Disentangler: an image's tokens as one primitive sees them (Troika and those that follow it)."""

import torch.nn.functional as F
from torch import Tensor, nn


class Disentangler(nn.Module):
    """dropout(relu(BatchNorm(linear(token)))), one token like the other.

    A single token in training, of which BatchNorm cannot take a variance, is normalised by the
    running statistics and leaves them as they are: a last batch of one image trains too.

    Args:
        dim: D.
        dropout: probability of zeroing an entry in training.

    Shape:
        `[B, T, D]` → `[B, T, D]`, non-negative.

    Examples:
        >>> import torch
        >>> Disentangler(8)(torch.randn(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    def __init__(self, dim: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim)
        self.norm = nn.BatchNorm1d(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the tokens as one primitive sees them, `[B, T, D]`."""
        rows = tokens.flatten(0, 1)
        if self.training and len(rows) == 1:
            seen = self.by_running_statistics(rows)
        else:
            seen = F.relu(self.norm(self.linear(rows)))
        return self.dropout(seen).unflatten(0, tokens.shape[:2])

    def by_running_statistics(self, rows: Tensor) -> Tensor:
        """Return rows `[N, D]` that are no tokens of this batch, without dropout, `[N, D]`.

        The statistics stay as they are; linear map and affine weights get gradients.
        """
        norm, rows = self.norm, self.linear(rows)
        return F.relu(
            F.batch_norm(
                rows, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
            )
        )

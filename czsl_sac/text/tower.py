"""CLIP's text tower: token embeddings in, features in the joint space out."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from czsl_sac.modules.transformer import Activation, Transformer

__all__ = ["TextTower", "Tokenizer"]


class Tokenizer(Protocol):
    """What the package asks of a tokenizer: word pieces between a start and an end token."""

    @property
    def sot(self) -> int:
        """Id of the start-of-text token."""

    @property
    def eot(self) -> int:
        """Id of the end-of-text token, at which a text's feature is read."""

    def encode(self, text: str) -> list[int]:
        """Gives the ids of a text without start and end."""

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Gives ids [P, context_length] int64: start, tokens, end, zeros."""


class TextTower(nn.Module):
    """CLIP's causal text transformer, read at the end-of-text token.

    The parameters carry OpenAI's names. Since a token sees only itself and those before it,
    whatever follows the end-of-text token changes nothing: prompts of n tokens cost n tokens,
    not `context_length`.

    Prompts run in chunks of `chunk_size`. When gradients are on and there is more than one chunk,
    the activations of a chunk are dropped and computed again in the backward pass, so that memory
    is bounded by one chunk: thousands of prompts fit, at about a third more time.

    Args:
        embed_dim: size of the joint space, D.
        context_length: largest number of tokens of a prompt.
        vocab_size: number of token ids.
        width: size of a token, W.
        layers: number of blocks.
        heads: heads of each attention.
        activation: of each MLP.
        chunk_size: prompts that run at once; also an attribute, free to change.

    Raises:
        ValueError: if `chunk_size` is not positive.

    >>> tower = TextTower(16, context_length=8, vocab_size=20, width=12, layers=2, heads=2)
    >>> tower(torch.tensor([[18, 3, 4, 19, 0], [18, 5, 19, 0, 0]])).shape
    torch.Size([2, 16])
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        context_length: int,
        vocab_size: int,
        width: int,
        layers: int,
        heads: int,
        activation: Activation = "quick_gelu",
        chunk_size: int = 256,
    ) -> None:
        super().__init__()
        if chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1 prompt, got {chunk_size}")
        self.context_length = context_length
        self.vocab_size = vocab_size
        self.width = width
        self.chunk_size = chunk_size
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, width))
        self.transformer = Transformer(width, layers, heads, activation=activation)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, embed_dim))
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=width**-0.5)

    def embed(self, ids: Tensor) -> Tensor:
        """Looks up the token embeddings [..., W] of ids [...], without positions."""
        return self.token_embedding(ids)

    def encode_embeddings(self, embeddings: Tensor, eot: Tensor) -> Tensor:
        """Encodes prompts given as token embeddings.

        Args:
            embeddings: [P, n, W] with n ≤ `context_length`, without positions; cast to the
                tower's dtype.
            eot: [P] int64, where each prompt's end-of-text token stands, in 0..n-1.

        Returns:
            Features [P, D]: the state at `eot` after `ln_final` and `text_projection`; not
            normalised.

        Raises:
            ValueError: if `embeddings` is not [P, n, W] with n ≤ `context_length`, or `eot` is
                not [P].
        """
        self._check_embeddings(embeddings)
        if eot.shape != embeddings.shape[:1]:
            raise ValueError(
                f"eot must hold one position for each of the {embeddings.shape[0]} prompts, got "
                f"shape {list(eot.shape)}"
            )
        if embeddings.shape[0] <= self.chunk_size:
            return self._encode(embeddings, eot)
        encode: Callable[[Tensor, Tensor], Tensor] = self._encode
        if torch.is_grad_enabled():
            encode = self._encode_recomputed
        chunks = zip(embeddings.split(self.chunk_size), eot.split(self.chunk_size), strict=True)
        return torch.cat([encode(*chunk) for chunk in chunks])

    def forward(self, ids: Tensor, eot: Tensor | None = None) -> Tensor:
        """Encodes token ids.

        Args:
            ids: [P, n] int64, n ≤ `context_length`; what follows the end-of-text token is
                not read.
            eot: [P] int64, where the end-of-text token stands. By default the place of the
                largest id in the row, which is where OpenAI's vocabulary has it.

        Returns:
            Features [P, D], not normalised.
        """
        if eot is None:
            eot = ids.argmax(dim=-1)
        if ids.shape[0] and not torch.compiler.is_compiling():  # a size that depends on the data
            ids = ids[:, : int(eot.max()) + 1]
        return self.encode_embeddings(self.embed(ids), eot)

    def states(self, embeddings: Tensor) -> Tensor:
        """Gives the state of every token, which `project` turns into features.

        For methods that work on whole prompts, as DFSP does. Nothing is chunked here.

        Args:
            embeddings: [P, n, W], as for `encode_embeddings`.

        Returns:
            States [P, n, W], before `ln_final`.

        Raises:
            ValueError: if `embeddings` is not [P, n, W] with n ≤ `context_length`.
        """
        self._check_embeddings(embeddings)
        positions = self.positional_embedding[: embeddings.shape[1]]
        return self.transformer(embeddings.to(positions.dtype) + positions, is_causal=True)

    def project(self, states: Tensor) -> Tensor:
        """Maps states [..., W] to features [..., D]: `ln_final`, then `text_projection`."""
        return self.ln_final(states) @ self.text_projection

    def extra_repr(self) -> str:
        return f"context_length={self.context_length}, chunk_size={self.chunk_size}"

    def _check_embeddings(self, embeddings: Tensor) -> None:
        if embeddings.dim() != 3 or embeddings.shape[-1] != self.width:
            raise ValueError(
                f"embeddings must have shape [P, n, {self.width}], got {list(embeddings.shape)}"
            )
        if embeddings.shape[1] > self.context_length:
            raise ValueError(
                f"embeddings has {embeddings.shape[1]} tokens a prompt, the tower takes at most "
                f"{self.context_length}: shorten the prompts"
            )

    def _encode(self, embeddings: Tensor, eot: Tensor) -> Tensor:
        states = self.states(embeddings)
        rows = torch.arange(states.shape[0], device=states.device)
        # Only the state at end-of-text is wanted, so the norm sees that one alone.
        return self.project(states[rows, eot])

    def _encode_recomputed(self, embeddings: Tensor, eot: Tensor) -> Tensor:
        return checkpoint(
            self._encode, embeddings, eot, use_reentrant=False, preserve_rng_state=False
        )

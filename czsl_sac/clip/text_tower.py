"""CLIP's text tower: token embeddings in, features in the joint space out."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

from czsl_sac.clip.prefix_tree import PrefixTree, SortedPrompts, sort_prompts
from czsl_sac.clip.transformer import (
    Activation,
    ResidualAttentionBlock,
    Transformer,
    has_dropout,
)
from czsl_sac.clip.tree_transformer import run_blocks

__all__ = ["TextTower", "Tokenizer"]

_SHARING_PAYS = 0.8  # from which share of the tokens on token ids run on a tree; see forward


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

    Prompts that begin alike share the states of that beginning. `encode_shared` computes them
    once: a composition in "a photo of [attribute] [object]" then costs two tokens, with the same
    features and gradients to rounding. `encode_embeddings` is the plain way.

    Prompts run in chunks of `chunk_size`, so that memory is bounded. Of what a chunk needs in the
    backward pass, `encode_shared` keeps up to `kept_gib`; further chunks drop it and run again
    there, at about half more time. `encode_embeddings` keeps it for a single chunk alone.

    Args:
        embed_dim: size of the joint space, D.
        context_length: largest number of tokens of a prompt.
        vocab_size: number of token ids.
        width: size of a token, W.
        layers: number of blocks.
        heads: heads of each attention.
        activation: of each MLP.
        chunk_size: prompts that run at once; also an attribute, free to change.
        kept_gib: GiB of activations that a call of `encode_shared` keeps for the backward pass,
            about; also an attribute. Zero keeps none.

    Raises:
        ValueError: if `chunk_size` is not positive, or `kept_gib` is negative.

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
        kept_gib: float = 4.0,
    ) -> None:
        super().__init__()
        if chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1 prompt, got {chunk_size}")
        if kept_gib < 0:
            raise ValueError(f"kept_gib must be 0 or more GiB, got {kept_gib}")
        self.context_length = context_length
        self.vocab_size = vocab_size
        self.width = width
        self.chunk_size = chunk_size
        self.kept_gib = kept_gib
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

    def encode_shared(
        self, table: Tensor, symbols: Tensor, lengths: Tensor | None = None
    ) -> Tensor:
        """Encodes prompts with every shared prefix computed once a chunk.

        The same as `encode_embeddings(table[symbols], lengths - 1)` to rounding, gradients to
        `table` and to the weights included. Prompts are sorted, so that a chunk holds neighbours.
        Dropout inside the blocks, as adapters have, draws once for a shared token.

        Args:
            table: [S, W], one embedding a symbol, without position; cast to the tower's dtype.
            symbols: [P, n] integers in 0..S-1 with n ≤ `context_length`: the prompts, which end
                at their end-of-text token.
            lengths: [P] integers in 1..n, tokens of each prompt; by default n.

        Returns:
            Features [P, D], not normalised.

        Raises:
            ValueError: if a shape or a length is wrong.

        >>> tower = TextTower(16, context_length=8, vocab_size=20, width=12, layers=2, heads=2)
        >>> prompts = torch.tensor([[0, 1, 3, 4], [0, 1, 2, 4], [0, 2, 4, 4]])
        >>> tower.encode_shared(torch.randn(5, 12), prompts, torch.tensor([4, 4, 3])).shape
        torch.Size([3, 16])
        """
        self._check_symbols(table, symbols, lengths)
        if not len(symbols):
            return self.project(table.new_empty(0, self.width, dtype=self.text_projection.dtype))
        return self._encode_sorted(table, sort_prompts(symbols, lengths))

    def forward(self, ids: Tensor, eot: Tensor | None = None) -> Tensor:
        """Encodes token ids, shared prefixes once where that pays.

        It pays where the tree of the prompts has at most four fifths of the tokens that run
        otherwise, which is every prompt at the length of the longest.

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
        if ids.shape[0] and not torch.compiler.is_compiling():  # sizes that depend on the data
            ids = ids[:, : int(eot.max()) + 1]
            prompts = sort_prompts(ids, eot + 1)
            if prompts.num_tokens() <= _SHARING_PAYS * ids.numel():
                used, prompts = prompts.compact()
                return self._encode_sorted(self.embed(used.to(ids.device)), prompts)
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

    def _check_symbols(self, table: Tensor, symbols: Tensor, lengths: Tensor | None) -> None:
        if table.dim() != 2 or table.shape[1] != self.width:
            raise ValueError(f"table must have shape [S, {self.width}], got {list(table.shape)}")
        if symbols.dim() != 2 or symbols.is_floating_point():
            raise ValueError(
                f"symbols must be integers of shape [P, n], got {symbols.dtype} of shape "
                f"{list(symbols.shape)}"
            )
        longest = symbols.shape[1]
        if longest > self.context_length:
            raise ValueError(
                f"symbols has {longest} tokens a prompt, the tower takes at most "
                f"{self.context_length}: shorten the prompts"
            )
        if symbols.numel() and not 0 <= int(symbols.min()) <= int(symbols.max()) < len(table):
            raise ValueError(
                f"symbols must be rows of the table, 0..{len(table) - 1}, got "
                f"{int(symbols.min())}..{int(symbols.max())}"
            )
        if lengths is None:
            return
        if lengths.shape != symbols.shape[:1]:
            raise ValueError(
                f"lengths must hold one number for each of the {len(symbols)} prompts, got shape "
                f"{list(lengths.shape)}"
            )
        if len(lengths) and not 1 <= int(lengths.min()) <= int(lengths.max()) <= longest:
            raise ValueError(
                f"lengths must be in 1..{longest}, got {int(lengths.min())}..{int(lengths.max())}"
            )

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

    def _encode_sorted(self, table: Tensor, prompts: SortedPrompts) -> Tensor:
        chunks = (
            prompts.tree(start, start + self.chunk_size).to(table.device)
            for start in range(0, len(prompts.lengths), self.chunk_size)
        )
        if not torch.is_grad_enabled() or not (table.requires_grad or self._is_trained()):
            with parametrize.cached():
                return _collect((self._encode_tree(table, tree) for tree in chunks), prompts.places)
        features = []
        room = self._kept_tokens()
        with ExitStack() as kept:
            kept.enter_context(parametrize.cached())  # a weight with LoRA is computed once
            for tree in chunks:
                room -= tree.num_tokens
                if room >= 0:
                    features.append(self._encode_tree(table, tree))
                else:
                    kept.close()  # a chunk that runs again must compute the same things again
                    features.append(self._recomputed(self._encode_tree, table, tree))
        return torch.cat(features).index_select(0, prompts.places.to(table.device))

    def _encode_tree(self, table: Tensor, tree: PrefixTree) -> Tensor:
        embeddings = table.index_select(0, tree.symbols).to(self.positional_embedding.dtype)
        inputs = embeddings + self.positional_embedding.index_select(0, tree.positions)
        blocks = cast(Sequence[ResidualAttentionBlock], self.transformer.resblocks)
        return self.project(run_blocks(blocks, tree, inputs))

    def _is_trained(self) -> bool:
        return any(parameter.requires_grad for parameter in self.parameters())

    def _kept_tokens(self) -> float:
        """Tokens whose activations fit into `kept_gib`."""
        if self.transformer.gradient_checkpointing:
            return 0
        # Per layer: the inputs of two norms W each, query, key and value 3 W, the MLP's 4 W before
        # its activation; where weights are trained, also what is multiplied by them, 7 W.
        widths = 16 if self._is_trained() else 9
        numbers = widths * self.width * max(len(self.transformer.resblocks), 1)
        return self.kept_gib * 2**30 / (numbers * self.positional_embedding.element_size())

    def _encode_recomputed(self, embeddings: Tensor, eot: Tensor) -> Tensor:
        return self._recomputed(self._encode, embeddings, eot)

    def _recomputed(self, encode: Callable[..., Tensor], *inputs: object) -> Tensor:
        """Runs `encode` keeping its inputs alone; the backward pass runs it again."""
        features: Tensor = checkpoint(
            encode,
            *inputs,
            use_reentrant=False,
            preserve_rng_state=has_dropout(self.transformer),  # costs time: only where needed
        )
        return features


def _collect(chunks: Iterable[Tensor], places: Tensor) -> Tensor:
    """Puts features of chunks of distinct prompts, without gradients, in the order of `places`."""
    order = places.argsort(stable=True)
    places = places[order]
    features, start = None, 0
    for chunk in chunks:
        if features is None:
            features = chunk.new_empty(len(places), chunk.shape[1])
        first, last = torch.searchsorted(places, torch.tensor([start, start + len(chunk)])).tolist()
        rows, sources = order[first:last], places[first:last] - start
        features[rows.to(chunk.device)] = chunk[sources.to(chunk.device)]
        start += len(chunk)
    if features is None:
        raise ValueError("there must be at least one chunk of prompts")
    return features

"""CLIP's text tower: token embeddings in, features in the joint space out."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Protocol, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

from czsl_sac.checks import check_range
from czsl_sac.clip.prefix_tree import (
    FixedPrompts,
    PrefixTree,
    SortedPrompts,
    check_lengths,
    sort_prompts,
    span,
)
from czsl_sac.clip.processes import Processes
from czsl_sac.clip.transformer import Activation, ResidualAttentionBlock, Transformer, has_dropout
from czsl_sac.clip.tree_transformer import run_blocks

_Prompts: TypeAlias = FixedPrompts | SortedPrompts
_SHARING_PAYS = 0.8  # from which share of the tokens on token ids run on a tree; see forward
_CHUNK_SIZES = (256, 8192)  # on a CPU the size makes no difference; a GPU waits for small chunks
_MEMORY_SHARE = 1 / 8  # of a GPU, for what a chunk of prompts keeps for its backward pass
_TOKENS_A_PROMPT = 2  # of a composition that shares its prefix


class Tokenizer(Protocol):
    """What the package asks of a tokenizer: word pieces between a start and an end token."""

    @property
    def sot(self) -> int:
        """Id of the start-of-text token."""

    @property
    def eot(self) -> int:
        """Id of the end-of-text token, at which a text's feature is read."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text without start and end."""

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return ids `[P, context_length]` int64: start, tokens, end, zeros."""


class TextTower(nn.Module):
    """CLIP's causal text transformer, read at the end-of-text token.

    The parameters carry OpenAI's names. Since a token sees only itself and those before it,
    whatever follows the end-of-text token changes nothing: prompts of n tokens cost n tokens,
    not `context_length`.

    Prompts that begin alike share the states of that beginning. `encode_shared` computes them
    once: a composition in "a photo of ATTRIBUTE OBJECT" then costs two tokens, with the same
    features and gradients to rounding. `encode_embeddings` is the plain way.

    Prompts run in chunks of `chunk_size`, so that memory is bounded. Of what a chunk needs in the
    backward pass, `encode_shared` keeps up to `kept_gib`; further chunks drop it and run again
    there, at about half more time. `encode_embeddings` keeps it for a single chunk alone.

    Where its `processes` are several, `encode_shared` and `forward` share the prompts out to them:
    each encodes a part, and all get all features, with gradients.

    Args:
        embed_dim: size of the joint space, D.
        context_length: largest number of tokens of a prompt.
        vocab_size: number of token ids.
        width: size of a token, W.
        layers: number of blocks.
        heads: heads of each attention.
        activation: of each MLP.
        chunk_size: prompts that run at once; None chooses by the device that the weights are on:
            256 on a CPU, and on a GPU, which small chunks keep waiting, as many up to 8,192 as an
            eighth of its memory has room for. Also an attribute, free to change; it reads as the
            number in use.
        kept_gib: GiB of activations that a call of `encode_shared` keeps for the backward pass,
            about; also an attribute. Zero keeps none.

    Raises:
        ValueError: `chunk_size` is not positive, or `kept_gib` is negative.

    Examples:
        >>> tower = TextTower(16, context_length=8, vocab_size=20, width=12, layers=2, heads=2)
        >>> tower(torch.tensor([[18, 3, 4, 19, 0], [18, 5, 19, 0, 0]])).shape
        torch.Size([2, 16])
        >>> tower.chunk_size
        256
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
        chunk_size: int | None = None,
        kept_gib: float = 4.0,
    ) -> None:
        super().__init__()
        check_range("kept_gib", kept_gib, low=0)
        self.context_length = context_length
        self.vocab_size = vocab_size
        self.width = width
        self.chunk_size = chunk_size
        self.kept_gib = kept_gib
        self.processes = Processes()
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, width))
        self.transformer = Transformer(width, layers, heads, activation=activation)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, embed_dim))
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=width**-0.5)

    @property
    def chunk_size(self) -> int:
        """Prompts that run at once."""
        return self.prompts_at_once(_TOKENS_A_PROMPT)

    @chunk_size.setter
    def chunk_size(self, value: int | None) -> None:
        check_range("chunk_size", value, low=1)
        self._chunk_size = value

    def prompts_at_once(self, tokens: int) -> int:
        """Return `chunk_size`, or what it comes to for prompts of which nothing is shared.

        For methods that run the blocks themselves.

        Args:
            tokens: that a prompt adds to a chunk: its length where prompts run whole.
        """
        if self._chunk_size is not None:
            return self._chunk_size
        smallest, largest = _CHUNK_SIZES
        if self._device.type != "cuda":
            return smallest
        memory = torch.cuda.get_device_properties(self._device).total_memory
        room = int(_MEMORY_SHARE * memory / (tokens * self._bytes_a_token()))
        return max(smallest, min(largest, room))

    def embed(self, ids: Tensor) -> Tensor:
        """Look up the token embeddings `[..., W]` of ids `[...]`, without positions."""
        return self.token_embedding(ids)

    def encode_embeddings(self, embeddings: Tensor, eot: Tensor) -> Tensor:
        """Encode prompts given as token embeddings.

        Args:
            embeddings: `[P, n, W]` with n ≤ `context_length`, without positions; cast to the
                tower's dtype.
            eot: `[P]` int64, where each prompt's end-of-text token stands, in 0..n-1.

        Returns:
            Features `[P, D]`: the state at `eot` after `ln_final` and `text_projection`; not
            normalised.

        Raises:
            ValueError: `embeddings` is not `[P, n, W]` with n ≤ `context_length`, or `eot` is
                not `[P]`.
        """
        self._check_embeddings(embeddings)
        if eot.shape != embeddings.shape[:1]:
            raise ValueError(
                f"eot has the shape {list(eot.shape)} but must be [{len(embeddings)}]: give one "
                "position for each prompt."
            )
        at_once = self.prompts_at_once(embeddings.shape[1])
        if len(embeddings) <= at_once:
            return self._encode(embeddings, eot)
        encode: Callable[[Tensor, Tensor], Tensor] = self._encode
        if torch.is_grad_enabled():
            encode = partial(self._recomputed, self._encode)
        chunks = zip(embeddings.split(at_once), eot.split(at_once), strict=True)
        return torch.cat([encode(*chunk) for chunk in chunks])

    def encode_shared(
        self, table: Tensor, symbols: Tensor | FixedPrompts, lengths: Tensor | None = None
    ) -> Tensor:
        """Encode prompts with every shared prefix computed once a chunk.

        The same as `encode_embeddings(table[symbols], lengths - 1)` to rounding, gradients to
        `table` and to the weights included. Prompts are sorted, so that a chunk holds neighbours.
        Dropout inside the blocks, as adapters have, draws once for a shared token.

        Args:
            table: `[S, W]`, one embedding a symbol, without position; cast to the tower's dtype.
            symbols: `[P, n]` integers in 0..S-1 with n ≤ `context_length`: the prompts, which end
                at their end-of-text token; or `FixedPrompts`, whose trees are built in the first
                call alone, so that later ones never wait for the device.
            lengths: `[P]` integers in 1..n, tokens of each prompt; None for n.

        Returns:
            Features `[P, D]`, not normalised.

        Raises:
            ValueError: a shape or a length is wrong.

        Examples:
            >>> tower = TextTower(16, context_length=8, vocab_size=20, width=12, layers=2, heads=2)
            >>> prompts = torch.tensor([[0, 1, 3, 4], [0, 1, 2, 4], [0, 2, 4, 4]])
            >>> tower.encode_shared(torch.randn(5, 12), prompts, torch.tensor([4, 4, 3])).shape
            torch.Size([3, 16])
        """
        self._check_table(table)
        if isinstance(symbols, FixedPrompts):
            self._check_symbols(table, symbols.shape, symbols.span)
            prompts: _Prompts = symbols
        else:
            if symbols.dim() != 2 or symbols.is_floating_point():
                raise ValueError(
                    f"symbols is {symbols.dtype} of shape {list(symbols.shape)} but must be "
                    "integers of shape [P, n]: give the rows of the table of each prompt."
                )
            self._check_symbols(table, symbols.shape, span(symbols))
            check_lengths(lengths, symbols)
            prompts = sort_prompts(symbols, lengths)
        return self._encode_trees(table, prompts, symbols.shape[0])

    def forward(self, ids: Tensor, eot: Tensor | None = None) -> Tensor:
        """Encode token ids, shared prefixes once where that pays.

        It pays where the tree of the prompts has at most four fifths of the tokens that run
        otherwise, which is every prompt at the length of the longest.

        Args:
            ids: `[P, n]` int64, n ≤ `context_length`; what follows the end-of-text token is
                not read.
            eot: `[P]` int64, where the end-of-text token stands. None takes the place of the
                largest id in the row, which is where OpenAI's vocabulary has it.

        Returns:
            Features `[P, D]`, not normalised.
        """
        if eot is None:
            eot = ids.argmax(dim=-1)
        if ids.shape[0] and not torch.compiler.is_compiling():  # sizes that depend on the data
            ids = ids[:, : int(eot.max()) + 1]
            prompts = sort_prompts(ids, eot + 1)
            if prompts.num_tokens() <= _SHARING_PAYS * ids.numel():
                used, prompts = prompts.compact()
                table = self.embed(used.to(ids.device))
                return self._encode_trees(table, prompts, len(ids))
        return self.encode_embeddings(self.embed(ids), eot)

    def states(self, embeddings: Tensor) -> Tensor:
        """Return the state of every token, which `project` turns into features.

        For methods that work on whole prompts, as DFSP does. Nothing is chunked here.

        Args:
            embeddings: `[P, n, W]`, as for `encode_embeddings`.

        Returns:
            States `[P, n, W]`, before `ln_final`.

        Raises:
            ValueError: `embeddings` is not `[P, n, W]` with n ≤ `context_length`.
        """
        self._check_embeddings(embeddings)
        positions = self.positional_embedding[: embeddings.shape[1]]
        return self.transformer(embeddings.to(positions.dtype) + positions, is_causal=True)

    def project(self, states: Tensor) -> Tensor:
        """Map states `[..., W]` to features `[..., D]`: `ln_final`, then `text_projection`."""
        return self.ln_final(states) @ self.text_projection

    def extra_repr(self) -> str:
        return f"context_length={self.context_length}, chunk_size={self._chunk_size}"

    def _check_table(self, table: Tensor) -> None:
        if table.dim() != 2 or table.shape[1] != self.width:
            raise ValueError(
                f"table has the shape {list(table.shape)} but must be [S, {self.width}]: give one "
                "embedding for each symbol."
            )

    def _check_symbols(self, table: Tensor, shape: torch.Size, used: range) -> None:
        self._check_length("symbols", shape[1])
        if used and (used[0] < 0 or used[-1] >= len(table)):
            raise ValueError(
                f"symbols is in {used[0]}..{used[-1]} but must be in 0..{len(table) - 1}: give "
                "rows of the table."
            )

    def _check_embeddings(self, embeddings: Tensor) -> None:
        if embeddings.dim() != 3 or embeddings.shape[-1] != self.width:
            raise ValueError(
                f"embeddings has the shape {list(embeddings.shape)} but must be "
                f"[P, n, {self.width}]: take them from the tower's embed."
            )
        self._check_length("embeddings", embeddings.shape[1])

    def _check_length(self, name: str, longest: int) -> None:
        if longest > self.context_length:
            raise ValueError(
                f"{name} has {longest} tokens a prompt but must have at most "
                f"{self.context_length}, which is what the tower takes: shorten the prompts."
            )

    def _encode(self, embeddings: Tensor, eot: Tensor) -> Tensor:
        states = self.states(embeddings)
        rows = torch.arange(states.shape[0], device=states.device)
        # Only the state at end-of-text is wanted, so the norm sees that one alone.
        return self.project(states[rows, eot])

    def _encode_trees(self, table: Tensor, prompts: _Prompts, count: int) -> Tensor:
        """Encode `count` prompts, a tree at a time; return them in the order they were given."""
        processes = self.processes.enough_for(len(prompts))
        trees = prompts.trees(self.chunk_size, table.device, processes.part(len(prompts)))
        if not torch.is_grad_enabled() or not (table.requires_grad or self._is_trained()):
            with parametrize.cached():  # a weight with LoRA is computed once
                return processes.sum(self._collect(table, trees, count))
        features, rows = [], []
        room = self.kept_gib * 2**30 / self._bytes_a_token()
        if self.transformer.gradient_checkpointing:
            room = 0
        with ExitStack() as kept:
            kept.enter_context(parametrize.cached())
            for tree in trees:
                room -= tree.num_tokens
                rows.append(tree.rows)
                if room >= 0:
                    features.append(self._encode_tree(table, tree))
                else:
                    kept.close()  # a chunk that runs again must compute the same things again
                    features.append(self._recomputed(self._encode_tree, table, tree))
        if not features:
            return self._nothing(table)
        if len(features) == 1 and len(rows[0]) == count:  # a tree's rows ascend
            return features[0]
        return processes.join(torch.cat(features), torch.cat(rows), count)

    def _collect(self, table: Tensor, trees: Iterable[PrefixTree], count: int) -> Tensor:
        """Encode without gradients, one chunk held at a time beside the result, of any size.

        Rows that the trees do not have stay zero.
        """
        collected: Tensor | None = None
        for tree in trees:
            features = self._encode_tree(table, tree)
            if len(features) == count:
                return features
            if collected is None:
                collected = features.new_zeros(count, features.shape[1])
            collected.index_copy_(0, tree.rows, features)
        return self._nothing(table) if collected is None else collected

    def _nothing(self, table: Tensor) -> Tensor:
        return self.project(table.new_empty(0, self.width, dtype=self.text_projection.dtype))

    def _encode_tree(self, table: Tensor, tree: PrefixTree) -> Tensor:
        embeddings = table.index_select(0, tree.symbols).to(self.positional_embedding.dtype)
        inputs = embeddings + self.positional_embedding.index_select(0, tree.positions)
        blocks = cast(Sequence[ResidualAttentionBlock], self.transformer.resblocks)
        return self.project(run_blocks(blocks, tree, inputs))

    @property
    def _device(self) -> torch.device:
        return self.positional_embedding.device

    def _is_trained(self) -> bool:
        return any(parameter.requires_grad for parameter in self.parameters())

    def _bytes_a_token(self) -> int:
        """What a token keeps for the backward pass, about."""
        # Per layer: the inputs of two norms W each, query, key and value 3 W, the MLP's 4 W before
        # its activation; where weights are trained, also what is multiplied by them, 7 W.
        widths = 16 if self._is_trained() else 9
        numbers = widths * self.width * max(len(self.transformer.resblocks), 1)
        return numbers * self.positional_embedding.element_size()

    def _recomputed(self, encode: Callable[..., Tensor], *inputs: object) -> Tensor:
        """Run `encode` keeping its inputs alone; the backward pass runs it again."""
        features: Tensor = checkpoint(
            encode,
            *inputs,
            use_reentrant=False,
            preserve_rng_state=has_dropout(self.transformer),  # costs time: only where needed
        )
        return features

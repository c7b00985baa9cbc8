"""Prompts as a tree in which every shared prefix is there once."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

_LARGEST_KEY = 2**62


@dataclass(frozen=True)
class Paths:
    """Which tokens of a tree some of its tokens attend to: the root, ancestors and themselves.

    Attributes:
        queries: `[Q]` int64, the tokens that attend, by depth.
        root: number of tokens at the tree's start that no prompt branches off; all attend to them.
        hidden: `[queries inside the root, root]` bool, the root's tokens that come after the query.
        steps: for each distance s = 0, 1, ... back from a query, outside the root: the first query
            that has a token there, and that token for it and for every later query.
    """

    queries: Tensor
    root: int
    hidden: Tensor
    steps: tuple[tuple[int, Tensor | slice], ...]

    def to(self, device: torch.device) -> "Paths":
        """Return the same paths with their indices on a device."""
        steps = (
            (first, at if isinstance(at, slice) else at.to(device)) for first, at in self.steps
        )
        return Paths(self.queries.to(device), self.root, self.hidden.to(device), tuple(steps))


@dataclass(frozen=True)
class PrefixTree:
    """The distinct prefixes of some prompts, by depth: one token each, N in all.

    A token of a causal transformer depends on those before it alone, so prompts that begin alike
    share the states of that beginning.

    Attributes:
        symbols: `[U]` int64, symbols of the distinct pairs of symbol and position.
        positions: `[U]` int64, their positions.
        inputs: `[N]` int64, the pair that each token of the tree is.
        paths: whom every token attends to.
        end_paths: whom the last tokens of the prompts attend to.
        ends: `[P]` int64, the query of `end_paths` at which each prompt ends.
        rows: `[P]` int64, which of the given prompts these are, ascending.
    """

    symbols: Tensor
    positions: Tensor
    inputs: Tensor
    paths: Paths
    end_paths: Paths
    ends: Tensor
    rows: Tensor

    @property
    def num_tokens(self) -> int:
        """Tokens of the tree, N."""
        return len(self.inputs)

    def to(self, device: torch.device) -> "PrefixTree":
        """Return the same tree with its indices on a device."""
        return PrefixTree(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass(frozen=True)
class SortedPrompts:
    """Distinct prompts in the order of their symbols, so that shared prefixes stand together.

    Attributes:
        symbols: `[P, n]` int64; what follows a prompt's end is -1.
        lengths: `[P]` int64, from 1 to n.
        places: `[prompts as given]` int64, where each given prompt is among the distinct ones.
    """

    symbols: Tensor
    lengths: Tensor
    places: Tensor

    def num_tokens(self) -> int:
        """Count the tokens of the tree of all these prompts."""
        return int(_begins_token(self.symbols).sum())

    def compact(self) -> tuple[Tensor, "SortedPrompts"]:
        """Renumber the symbols, from 0 without gaps; return the old symbols with the result."""
        used, symbols = self.symbols.unique(return_inverse=True)
        gap = int(bool(len(used)) and int(used[0]) < 0)  # -1 stays what it is
        return used[gap:], replace(self, symbols=symbols - gap)

    def __len__(self) -> int:
        """Return the number of distinct prompts, P."""
        return len(self.lengths)

    def trees(self, chunk_size: int, device: torch.device, part: range) -> Iterator[PrefixTree]:
        """Build one tree after the other, of `chunk_size` neighbouring prompts each."""
        for start in part[::chunk_size]:
            yield self.tree(start, min(start + chunk_size, part.stop)).to(device)

    def tree(self, start: int, stop: int) -> PrefixTree:
        """Build the tree of the distinct prompts `start` to `stop`, the latter not included.

        Examples:
            >>> prompts = sort_prompts(torch.tensor([[8, 1, 9], [8, 2, 9], [8, 1, 9]]))
            >>> tree = prompts.tree(0, 2)  # 8, then 1 and 2, then an end each
            >>> tree.num_tokens, tree.paths.root, tree.ends.tolist()
            (5, 1, [0, 1, 0])
        """
        symbols, lengths = self.symbols[start:stop], self.lengths[start:stop]
        begins = _begins_token(symbols).T  # [n, P]: tokens are numbered depth by depth
        depth, row = begins.nonzero().unbind(1)
        token = begins.flatten().cumsum(0).sub(1).view(begins.shape)  # also where it is shared
        per_depth = begins.sum(1)
        root = int((per_depth == 1).int().cumprod(0).sum())
        parents = torch.where(depth > 0, token[(depth - 1).clamp(min=0), row], -1)

        pairs, inputs = (symbols[row, depth] * len(begins) + depth).unique(return_inverse=True)
        queries, order = token[lengths - 1, torch.arange(len(lengths))].sort()
        rows = ((self.places >= start) & (self.places < stop)).nonzero()[:, 0]
        return PrefixTree(
            symbols=pairs // len(begins),
            positions=pairs % len(begins),
            inputs=inputs,
            paths=_paths(torch.arange(len(depth)), depth, parents, root),
            end_paths=_paths(queries, depth, parents, root),
            ends=order.argsort()[self.places[rows] - start],
            rows=rows,
        )


class FixedPrompts:
    """Prompts that stay the same from step to step: their trees are built once.

    Args:
        symbols: `[P, n]` integers from 0, as for `TextTower.encode_shared`.
        lengths: `[P]` int64, tokens of each prompt; None for n.

    Examples:
        >>> prompts = FixedPrompts(torch.tensor([[8, 1, 9], [8, 2, 9]]))
        >>> cpu, both = torch.device("cpu"), range(2)
        >>> prompts.trees(2, cpu, both) is prompts.trees(2, cpu, both)
        True
    """

    def __init__(self, symbols: Tensor, lengths: Tensor | None = None) -> None:
        self.shape = symbols.shape
        self.sorted = sort_prompts(symbols, lengths)
        self.span = span(symbols)
        self._key: tuple[int, torch.device, range] | None = None
        self._trees: list[PrefixTree] = []

    def __len__(self) -> int:
        """Return the number of distinct prompts."""
        return len(self.sorted)

    def trees(self, chunk_size: int, device: torch.device, part: range) -> list[PrefixTree]:
        """Return the trees of the prompts, as they were built for the same arguments.

        Args:
            chunk_size: distinct prompts of a tree.
            device: where they are.
            part: which of the distinct prompts.
        """
        if self._key != (chunk_size, device, part):
            self._trees = list(self.sorted.trees(chunk_size, device, part))
            self._key = (chunk_size, device, part)
        return self._trees


def span(symbols: Tensor) -> range:
    """Return the range from the smallest symbol to the largest, empty where there are none."""
    return range(int(symbols.min()), int(symbols.max()) + 1) if symbols.numel() else range(0)


def check_lengths(lengths: Tensor | None, symbols: Tensor) -> None:
    """Refuse lengths of prompts that do not fit.

    Args:
        lengths: `[P]` integers, tokens of each prompt, or None.
        symbols: `[P, n]`.

    Raises:
        ValueError: there is not one for each prompt, or one is not in 1..n.
    """
    if lengths is None:
        return
    count, longest = symbols.shape
    if lengths.shape != (count,):
        raise ValueError(
            f"lengths has the shape {list(lengths.shape)} but must be [{count}]: give one number "
            "for each prompt."
        )
    if count and not 1 <= int(lengths.min()) <= int(lengths.max()) <= longest:
        raise ValueError(
            f"lengths is {int(lengths.min())}..{int(lengths.max())} but must be in 1..{longest}: "
            "count the tokens of each prompt, the end included."
        )


def sort_prompts(symbols: Tensor, lengths: Tensor | None = None) -> SortedPrompts:
    """Sort prompts by their symbols and drop repetitions.

    Args:
        symbols: `[P, n]` integers from 0, such as token ids.
        lengths: `[P]` int64, tokens of each prompt; None for n.

    Returns:
        The distinct prompts, on the CPU.

    Examples:
        >>> prompts = sort_prompts(torch.tensor([[8, 2, 9], [8, 1, 9], [8, 2, 9]]))
        >>> prompts.symbols.tolist(), prompts.places.tolist()
        ([[8, 1, 9], [8, 2, 9]], [1, 0, 1])
    """
    symbols = symbols.cpu().long()
    count, longest = symbols.shape
    lengths = torch.full((count,), longest) if lengths is None else lengths.cpu().long()
    symbols = symbols.where(torch.arange(longest) < lengths.unsqueeze(1), -1)
    base = int(symbols.max()) + 2 if symbols.numel() else 1
    key, size = torch.zeros(count, dtype=torch.int64), 1
    for column in symbols.T:
        if count and bool((column == column[0]).all()):
            continue
        if size * base > _LARGEST_KEY:
            distinct, key = key.unique(return_inverse=True)
            size = len(distinct)
        key, size = key * base + column + 1, size * base
    distinct, places = key.unique(return_inverse=True)
    member = torch.empty(len(distinct), dtype=torch.int64)
    member[places] = torch.arange(count)
    return SortedPrompts(symbols[member], lengths[member], places)


def _begins_token(symbols: Tensor) -> Tensor:
    """Mark in sorted prompts `[P, n]` each token that the prompt before does not have."""
    begins = torch.ones_like(symbols, dtype=torch.bool)
    begins[1:] = (symbols[1:] != symbols[:-1]).int().cummax(1).values.bool()
    return begins & (symbols >= 0)


def _paths(queries: Tensor, depth: Tensor, parents: Tensor, root: int) -> Paths:
    query_depth = depth[queries]
    inside = int((query_depth < root).sum())
    hidden = torch.arange(root) > query_depth[:inside].unsqueeze(1)
    steps: list[tuple[int, Tensor | slice]] = []
    first, at = inside, queries[inside:]
    while len(at):
        steps.append((first, _as_slice(at)))
        at = parents[at]
        outside = (at >= 0) & (depth[at] >= root)  # a suffix: the queries are sorted by depth
        first += int((~outside).sum())
        at = at[outside]
    return Paths(queries, root, hidden, tuple(steps))


def _as_slice(at: Tensor) -> Tensor | slice:
    """Return indices as a slice, which copies nothing, where they are consecutive."""
    start = int(at[0])
    consecutive = torch.equal(at, torch.arange(start, start + len(at)))
    return slice(start, start + len(at)) if consecutive else at

"""Soft prompts for compositions, attributes and objects (θ_c, θ_a, θ_o)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from czsl_sac.checks import check_range
from czsl_sac.clip.prefix_tree import FixedPrompts
from czsl_sac.clip.text_tower import TextTower, Tokenizer

_Branch = Literal["composition", "attribute", "object"]
_BRANCHES: tuple[_Branch, ...] = ("composition", "attribute", "object")


def clean_name(name: str) -> str:
    """Write an attribute or object as CLIP reads it: lower case, full stops to spaces.

    Underscores and hyphens stay, as in the published methods.

    Args:
        name: as the data set has it.

    Examples:
        >>> clean_name("Faux.Fur"), clean_name("traffic_light")
        ('faux fur', 'traffic_light')
    """
    return name.replace(".", " ").lower()


class SoftPrompts(nn.Module):
    """Learnable prompts: SOT, context, attribute, object, EOT; and SOT, context, primitive, EOT.

    Three contexts, for compositions, attributes and objects, start at the token embeddings of the
    template. Attributes and objects are one vector each, used in their own prompts and in those of
    the compositions; a vector starts at the mean token embedding of its cleaned name. This is the
    prompt of the paper's Sec. 3 (Textual Representations), in Troika's form.

    The tower is used, not owned: it is no submodule, so its weights are in neither `parameters()`
    nor `state_dict()` here, and `.to()` does not move it.

    Prompts of the same `pairs` tensor as in the call before (the very tensor, unchanged, as in
    training) are prepared once, so that a step neither builds their prefix tree nor waits for the
    device.

    Args:
        tower: encodes the prompts.
        tokenizer: of the tower's vocabulary.
        attributes: A names.
        objects: O names.
        template: words of the context, any number of tokens.
        dropout: probability of zeroing an entry of the attribute and object vectors in training.
        train_context: whether the contexts are learned.
        train_primitives: whether the attribute and object vectors are learned.
        shared_context: one context for all three kinds of prompt instead of three.

    Raises:
        ValueError: a name has no tokens, there are no names, or the prompt does not fit into
            the tower.

    Attributes:
        context: `[3, n, W]` for compositions, attributes, objects, or `[1, n, W]`.
        attribute_vectors: `[A, W]`.
        object_vectors: `[O, W]`.

    Examples:
        >>> from types import SimpleNamespace
        >>> ids = {"a": 1, "photo": 2, "of": 3, "red": 4, "blue": 5, "cat": 6}
        >>> words = SimpleNamespace(sot=8, eot=9, encode=lambda t: [ids[w] for w in t.split()])
        >>> tower = TextTower(16, context_length=8, vocab_size=10, width=12, layers=1, heads=2)
        >>> prompts = SoftPrompts(tower, words, ["red", "blue"], ["cat"])
        >>> prompts.compositions(torch.tensor([[0, 0], [1, 0]])).shape
        torch.Size([2, 16])
        >>> compositions, attributes, objects = prompts(torch.tensor([[1, 0]]))
        >>> compositions.shape, attributes.shape, objects.shape
        (torch.Size([1, 16]), torch.Size([2, 16]), torch.Size([1, 16]))
    """

    tower: TextTower
    ends: Tensor

    def __init__(
        self,
        tower: TextTower,
        tokenizer: Tokenizer,
        attributes: Sequence[str],
        objects: Sequence[str],
        *,
        template: str = "a photo of",
        dropout: float = 0.0,
        train_context: bool = True,
        train_primitives: bool = True,
        shared_context: bool = False,
    ) -> None:
        super().__init__()
        check_range("dropout", dropout, low=0.0, below=1.0)
        object.__setattr__(self, "tower", tower)  # past nn.Module, which would register it
        self.dropout = dropout
        words = tokenizer.encode(template)
        length = len(words) + 4
        if length > tower.context_length:
            raise ValueError(
                f"template is {template!r}, which makes prompts of {length} tokens, but they must "
                f"have at most {tower.context_length}, which is what the tower takes: shorten it."
            )
        device = tower.positional_embedding.device
        self.register_buffer(
            "ends", torch.tensor([tokenizer.sot, tokenizer.eot], device=device), persistent=False
        )
        context = _embed(tower, words).expand(1 if shared_context else len(_BRANCHES), -1, -1)
        self.context = nn.Parameter(context.clone(), requires_grad=train_context)
        self.attribute_vectors = nn.Parameter(
            _mean_embeddings(tower, tokenizer, attributes, "attributes"), train_primitives
        )
        self.object_vectors = nn.Parameter(
            _mean_embeddings(tower, tokenizer, objects, "objects"), train_primitives
        )
        self._latest: _Pairs | None = None
        self._primitives: dict[_Branch, FixedPrompts] = {}

    def forward(self, pairs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode all three kinds of prompt under one draw of the dropout.

        Args:
            pairs: `[K, 2]` int64, attribute index and object index of each composition.

        Returns:
            Features of the compositions `[K, D]`, attributes `[A, D]` and objects `[O, D]`, not
            normalised.
        """
        attributes, objects = self._vectors()
        return (
            self._encode_pairs(pairs, attributes, objects),
            self._encode("attribute", attributes),
            self._encode("object", objects),
        )

    def compositions(self, pairs: Tensor) -> Tensor:
        """Encode the compositions `pairs` `[K, 2]` as features `[K, D]`, not normalised."""
        return self._encode_pairs(pairs, *self._vectors())

    def attributes(self) -> Tensor:
        """Encode all attributes as features `[A, D]`, not normalised."""
        return self._encode("attribute", self._vectors()[0])

    def objects(self) -> Tensor:
        """Encode all objects as features `[O, D]`, not normalised."""
        return self._encode("object", self._vectors()[1])

    def embed_compositions(self, pairs: Tensor) -> Tensor:
        """Return the prompts of `pairs` `[K, 2]` as token embeddings `[K, n, W]`, EOT last.

        For methods that run the tower themselves; `compositions` does both.
        """
        table = self._table("composition", torch.cat(self._vectors()))
        return table[self._prepared(pairs).symbols.to(table.device)]

    def extra_repr(self) -> str:
        contexts, length, _ = self.context.shape
        return (
            f"attributes={len(self.attribute_vectors)}, objects={len(self.object_vectors)}, "
            f"contexts={contexts}, context_tokens={length}, dropout={self.dropout}"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: not what was prepared, which it would prepare anew."""
        return {**self.__dict__, "_latest": None, "_primitives": {}}

    def _vectors(self) -> tuple[Tensor, Tensor]:
        """Return the attribute and object vectors after dropout on the whole of both tables."""
        return self._drop(self.attribute_vectors), self._drop(self.object_vectors)

    def _drop(self, vectors: Tensor) -> Tensor:
        processes = self.tower.processes
        if processes.count == 1 or not (self.training and self.dropout):
            return F.dropout(vectors, self.dropout, self.training)
        # Those that share out the prompts need one draw, and need not have drawn alike so far.
        return vectors * processes.of_first(F.dropout(torch.ones_like(vectors), self.dropout))

    def _encode_pairs(self, pairs: Tensor, attributes: Tensor, objects: Tensor) -> Tensor:
        table = self._table("composition", torch.cat([attributes, objects]))
        return self.tower.encode_shared(table, self._prepared(pairs).prompts)

    def _encode(self, branch: _Branch, primitives: Tensor) -> Tensor:
        if branch not in self._primitives:
            each = torch.arange(len(primitives)).unsqueeze(1)
            self._primitives[branch] = FixedPrompts(self._symbols(each, len(primitives)))
        return self.tower.encode_shared(self._table(branch, primitives), self._primitives[branch])

    def _prepared(self, pairs: Tensor) -> "_Pairs":
        """Return the prompts of compositions, those of the latest call where they are the same."""
        if self._latest is None or not self._latest.are(pairs):
            if pairs.dim() != 2 or pairs.shape[1] != 2 or pairs.is_floating_point():
                raise ValueError(
                    f"pairs is {pairs.dtype} of shape {list(pairs.shape)} but must be integers of "
                    "shape [K, 2]: give attribute index and object index of each composition."
                )
            sizes = torch.tensor([len(self.attribute_vectors), len(self.object_vectors)])
            rows = pairs.cpu()
            if bool(((rows < 0) | (rows >= sizes)).any()):
                raise ValueError(
                    f"pairs is in {rows.amin(0).tolist()} to {rows.amax(0).tolist()} but must be "
                    f"indices of {sizes[0]} attributes and {sizes[1]} objects: count from 0."
                )
            first_object, count = len(self.attribute_vectors), int(sizes.sum())
            symbols = self._symbols(rows + torch.tensor([0, first_object]), count)
            version = None if pairs.is_inference() else pairs._version
            self._latest = _Pairs(
                pairs, version, symbols.to(self.context.device), FixedPrompts(symbols)
            )
        return self._latest

    def _table(self, branch: _Branch, primitives: Tensor) -> Tensor:
        """Return the embeddings `[S, W]` of SOT, context, primitives `[R, W]` and EOT."""
        start, end = self.tower.embed(self.ends).to(self.context.dtype).unsqueeze(1)
        context = self.context[_BRANCHES.index(branch) if len(self.context) > 1 else 0]
        return torch.cat([start, context, primitives, end])

    def _symbols(self, rows: Tensor, primitives: int) -> Tensor:
        """Return the prompts as rows of `_table`, `[P, n]`.

        Args:
            rows: `[P, 1 or 2]` int64, which of the primitives each prompt has.
            primitives: how many there are, R.
        """
        before = self.context.shape[1] + 1
        prefix = torch.arange(before).expand(len(rows), -1)
        end = rows.new_full((len(rows), 1), before + primitives)
        return torch.cat([prefix, rows + before, end], dim=1)


@dataclass(frozen=True)
class _Pairs:
    """Compositions whose prompts are prepared.

    Attributes:
        pairs: as they were given.
        version: of `pairs`, by which a later change is seen; None in inference mode, where torch
            counts none.
        symbols: `[K, n]`, on the device of the embeddings.
        prompts: the same with their prefix trees.
    """

    pairs: Tensor
    version: int | None
    symbols: Tensor
    prompts: FixedPrompts

    def are(self, pairs: Tensor) -> bool:
        """Tell whether `pairs` is the very tensor, unchanged."""
        if pairs is not self.pairs or self.version is None:
            return False
        return pairs._version == self.version


def _embed(tower: TextTower, ids: Sequence[int]) -> Tensor:
    """Return token embeddings `[n, W]`, detached, in at least float32 for the optimizer's sake."""
    device = tower.positional_embedding.device
    embeddings = tower.embed(torch.tensor(ids, dtype=torch.int64, device=device)).detach()
    return embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))


def _mean_embeddings(
    tower: TextTower, tokenizer: Tokenizer, names: Sequence[str], argument: str
) -> Tensor:
    """Return one vector a name, `[names, W]`: the mean embedding of its tokens."""
    if isinstance(names, str) or len(names) == 0:
        raise ValueError(f"{argument} is {names!r} but must be one or more names: give a list.")
    vectors = []
    for name in names:
        ids = tokenizer.encode(clean_name(name))
        if not ids:
            raise ValueError(
                f"{argument} has the name {name!r}, which holds no word, but must have one to "
                "embed: rename it."
            )
        vectors.append(_embed(tower, ids).mean(dim=0))
    return torch.stack(vectors)

"""Soft prompts for compositions, attributes and objects (θ_c, θ_a, θ_o)."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from czsl_sac.clip.text_tower import TextTower, Tokenizer

__all__ = ["SoftPrompts", "clean_name"]

_Branch = Literal["composition", "attribute", "object"]
_BRANCHES: tuple[_Branch, ...] = ("composition", "attribute", "object")


def clean_name(name: str) -> str:
    """Writes an attribute or object as CLIP reads it: lower case, full stops to spaces.

    Underscores and hyphens stay, as in the published methods.

    >>> clean_name("Faux.Fur"), clean_name("traffic_light")
    ('faux fur', 'traffic_light')
    """
    return name.replace(".", " ").lower()


class SoftPrompts(nn.Module):
    """Learnable prompts: [SOT, context, attribute, object, EOT] and [SOT, context, primitive, EOT].

    Three contexts, for compositions, attributes and objects, start at the token embeddings of the
    template. Attributes and objects are one vector each, used in their own prompts and in those of
    the compositions; a vector starts at the mean token embedding of its cleaned name. This is the
    prompt of the paper's Sec. 3 (Textual Representations), in Troika's form.

    The tower is used, not owned: it is no submodule, so its weights are in neither `parameters()`
    nor `state_dict()` here, and `.to()` does not move it.

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
        ValueError: if a name has no tokens, there are no names, or the prompt does not fit into
            the tower.

    Attributes:
        context: [3, n, W] for compositions, attributes, objects, or [1, n, W].
        attribute_vectors: [A, W].
        object_vectors: [O, W].

    >>> from types import SimpleNamespace
    >>> ids = {"a": 1, "photo": 2, "of": 3, "red": 4, "blue": 5, "cat": 6}
    >>> words = SimpleNamespace(sot=8, eot=9, encode=lambda text: [ids[w] for w in text.split()])
    >>> tower = TextTower(16, context_length=8, vocab_size=10, width=12, layers=1, heads=2)
    >>> prompts = SoftPrompts(tower, words, ["red", "blue"], ["cat"])
    >>> prompts.compositions(torch.tensor([[0, 0], [1, 0]])).shape
    torch.Size([2, 16])
    >>> [tuple(features.shape) for features in prompts(torch.tensor([[1, 0]]))]
    [(1, 16), (2, 16), (1, 16)]
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
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        object.__setattr__(self, "tower", tower)  # past nn.Module, which would register it
        self.dropout = dropout
        words = tokenizer.encode(template)
        length = len(words) + 4
        if length > tower.context_length:
            raise ValueError(
                f"template {template!r} makes prompts of {length} tokens, where the tower takes "
                f"at most {tower.context_length}: shorten it"
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

    def forward(self, pairs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encodes all three kinds of prompt under one draw of the dropout.

        Args:
            pairs: [K, 2] int64, attribute index and object index of each composition.

        Returns:
            Features of the compositions [K, D], attributes [A, D] and objects [O, D], not
            normalised.
        """
        attributes, objects = self._vectors()
        return (
            self._encode_pairs(pairs, attributes, objects),
            self._encode("attribute", attributes),
            self._encode("object", objects),
        )

    def compositions(self, pairs: Tensor) -> Tensor:
        """Encodes the compositions `pairs` [K, 2] as features [K, D], not normalised."""
        return self._encode_pairs(pairs, *self._vectors())

    def attributes(self) -> Tensor:
        """Encodes all attributes as features [A, D], not normalised."""
        return self._encode("attribute", self._vectors()[0])

    def objects(self) -> Tensor:
        """Encodes all objects as features [O, D], not normalised."""
        return self._encode("object", self._vectors()[1])

    def embed_compositions(self, pairs: Tensor) -> Tensor:
        """Gives the prompts of `pairs` [K, 2] as token embeddings [K, n, W], the last at EOT.

        For methods that run the tower themselves; `compositions` does both.
        """
        table, symbols = self._prompts_of_pairs(pairs, *self._vectors())
        return table[symbols.to(table.device)]

    def extra_repr(self) -> str:
        contexts, length, _ = self.context.shape
        return (
            f"attributes={len(self.attribute_vectors)}, objects={len(self.object_vectors)}, "
            f"contexts={contexts}, context_tokens={length}, dropout={self.dropout}"
        )

    def _vectors(self) -> tuple[Tensor, Tensor]:
        """The attribute and object vectors after dropout on the whole of both tables."""
        return (
            F.dropout(self.attribute_vectors, self.dropout, self.training),
            F.dropout(self.object_vectors, self.dropout, self.training),
        )

    def _encode_pairs(self, pairs: Tensor, attributes: Tensor, objects: Tensor) -> Tensor:
        table, symbols = self._prompts_of_pairs(pairs, attributes, objects)
        return self.tower.encode_shared(table, symbols)

    def _encode(self, branch: _Branch, primitives: Tensor) -> Tensor:
        each = torch.arange(len(primitives)).unsqueeze(1)
        return self.tower.encode_shared(*self._prompts(branch, primitives, each))

    def _prompts_of_pairs(
        self, pairs: Tensor, attributes: Tensor, objects: Tensor
    ) -> tuple[Tensor, Tensor]:
        if pairs.dim() != 2 or pairs.shape[1] != 2 or pairs.is_floating_point():
            raise ValueError(
                "pairs must be integers of shape [K, 2], attribute index and object index, got "
                f"{pairs.dtype} of shape {list(pairs.shape)}"
            )
        sizes = torch.tensor([len(attributes), len(objects)])
        pairs = pairs.cpu()
        if bool(((pairs < 0) | (pairs >= sizes)).any()):
            raise ValueError(
                f"pairs must hold indices of the {sizes[0]} attributes and {sizes[1]} objects, got "
                f"{pairs.amin(0).tolist()} to {pairs.amax(0).tolist()}"
            )
        rows = pairs + torch.tensor([0, len(attributes)])
        return self._prompts("composition", torch.cat([attributes, objects]), rows)

    def _prompts(self, branch: _Branch, primitives: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Gives [SOT, context, primitives, EOT] as `TextTower.encode_shared` takes it.

        Args:
            branch: whose context.
            primitives: vectors [R, W].
            rows: [P, 1 or 2] int64, which of them each prompt has.

        Returns:
            Embeddings [S, W] of the symbols, and the prompts' symbols [P, n].
        """
        start, end = self.tower.embed(self.ends).to(self.context.dtype).unsqueeze(1)
        context = self.context[_BRANCHES.index(branch) if len(self.context) > 1 else 0]
        table = torch.cat([start, context, primitives, end])
        before, last = len(context) + 1, len(table) - 1
        prefix = torch.arange(before).expand(len(rows), -1)
        return table, torch.cat([prefix, rows + before, rows.new_full((len(rows), 1), last)], dim=1)


def _embed(tower: TextTower, ids: Sequence[int]) -> Tensor:
    """Token embeddings [n, W] of ids, detached, in at least float32 for the optimizer's sake."""
    device = tower.positional_embedding.device
    embeddings = tower.embed(torch.tensor(ids, dtype=torch.int64, device=device)).detach()
    return embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))


def _mean_embeddings(
    tower: TextTower, tokenizer: Tokenizer, names: Sequence[str], argument: str
) -> Tensor:
    """One vector a name, [len(names), W]: the mean embedding of its tokens."""
    if isinstance(names, str) or len(names) == 0:
        raise ValueError(f"{argument} must be a sequence of one or more names, got {names!r}")
    vectors = []
    for name in names:
        ids = tokenizer.encode(clean_name(name))
        if not ids:
            raise ValueError(f"{argument} has the name {name!r}, which holds no word to embed")
        vectors.append(_embed(tower, ids).mean(dim=0))
    return torch.stack(vectors)

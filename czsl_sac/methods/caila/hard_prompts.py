"""Prompts of plain words whose embeddings are learned: CAILA's."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from czsl_sac.clip.backbone import CLIPBackbone
from czsl_sac.clip.prefix_tree import FixedPrompts
from czsl_sac.clip.prompts import clean_name
from czsl_sac.clip.text_tower import TextTower
from czsl_sac.space import CompositionSpace


class HardPrompts(nn.Module):
    """ "a photo of a red cat", "a photo of a red object", "a photo of a cat", word by word.

    The words of the names, "object" and the end-of-text token have an embedding each that is
    learned, one for all the prompts it stands in; the template's words stay CLIP's own. The tower
    is used, not owned.

    Args:
        backbone: whose words they are.
        space: A attributes and O objects.
        template: the words before the names.
        train_words: whether the embeddings are learned.

    Attributes:
        word_vectors: `[U, W]`, the embeddings of the words that occur.

    Examples:
        >>> from czsl_sac import load_backbone
        >>> clip = load_backbone("tiny")
        >>> space = CompositionSpace.closed_world([("red", "cat"), ("red", "star")])
        >>> prompts = HardPrompts(clip, space)
        >>> every = prompts.compositions(torch.tensor([[0, 0], [0, 1]]))
        >>> clip.text.encode_shared(prompts.table(clip.text), every).shape
        torch.Size([2, 128])
    """

    start: Tensor

    def __init__(
        self,
        backbone: CLIPBackbone,
        space: CompositionSpace,
        *,
        template: str = "a photo of a",
        train_words: bool = True,
    ) -> None:
        super().__init__()
        tower, tokenizer = backbone.text, backbone.tokenizer
        device = tower.positional_embedding.device
        start = [tokenizer.sot, *tokenizer.encode(template)]
        self.register_buffer("start", torch.tensor(start, device=device), persistent=False)
        a, o = (
            [tokenizer.encode(clean_name(name)) for name in names]
            for names in (space.attributes, space.objects)
        )
        thing = tokenizer.encode("object")
        words = sorted({tokenizer.eot, *thing, *(w for name in (*a, *o) for w in name)})
        symbol = {word: len(start) + row for row, word in enumerate(words)}
        self._end = [symbol[tokenizer.eot]]
        self._thing = [symbol[word] for word in thing]
        self._attributes, self._objects = (
            [[symbol[w] for w in n] for n in names] for names in (a, o)
        )
        vectors = tower.embed(torch.tensor(words, device=device)).detach()
        dtype = torch.promote_types(vectors.dtype, torch.float32)
        self.word_vectors = nn.Parameter(vectors.to(dtype, copy=True), train_words)

    def table(self, tower: TextTower) -> Tensor:
        """Return the embeddings `[S, W]` that the prompts' symbols stand for.

        Args:
            tower: as was given.
        """
        start = tower.embed(self.start).detach().to(self.word_vectors.dtype)
        return torch.cat([start, self.word_vectors])

    def compositions(self, pairs: Tensor) -> FixedPrompts:
        """Return the prompts of compositions `pairs` `[K, 2]`."""
        return self._prompts([self._attributes[a] + self._objects[o] for a, o in pairs.tolist()])

    def attributes(self) -> FixedPrompts:
        """Return the prompts of all attributes."""
        return self._prompts([name + self._thing for name in self._attributes])

    def objects(self) -> FixedPrompts:
        """Return the prompts of all objects."""
        return self._prompts(self._objects)

    def _prompts(self, names: Sequence[list[int]]) -> FixedPrompts:
        start = list(range(len(self.start)))
        rows = [torch.tensor([*start, *name, *self._end]) for name in names]
        lengths = torch.tensor([len(row) for row in rows])
        return FixedPrompts(pad_sequence(rows, batch_first=True), lengths)

"""Text: CLIP's text tower and the soft prompts that it encodes."""

from czsl_sac.text.prompts import SoftPrompts, clean_name
from czsl_sac.text.tower import TextTower, Tokenizer

__all__ = ["SoftPrompts", "TextTower", "Tokenizer", "clean_name"]

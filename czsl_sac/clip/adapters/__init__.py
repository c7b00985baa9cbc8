"""What is trained inside a frozen CLIP: LoRA, AdaptFormer, and their files."""

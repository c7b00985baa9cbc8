"""Where CLIP comes from: OpenAI, open_clip, transformers, and the built-in tiny one."""

"""Faster equals of `czsl_sac.functional` behind one dispatch.

Only this package knows Triton, and imports it only when a Triton kernel runs.
"""

from czsl_sac.kernels.dispatch import patch_max, patch_max_values

__all__ = ["patch_max", "patch_max_values"]

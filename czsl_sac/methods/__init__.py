"""CZSL methods on CLIP, one file each: what they train, what they minimise, how they score."""

from czsl_sac.methods.base import CZSLMethod, ParameterGroup, Predictor
from czsl_sac.methods.sac import SAC, BankOptions
from czsl_sac.methods.zero_shot import ZeroShotCLIP

__all__ = ["SAC", "BankOptions", "CZSLMethod", "ParameterGroup", "Predictor", "ZeroShotCLIP"]

"""CZSL methods on CLIP, one file each: what they train, what they minimise, how they score."""

from czsl_sac.methods.base import CZSLMethod, ParameterGroup, Predictor
from czsl_sac.methods.coop import CoOp
from czsl_sac.methods.csp import CSP
from czsl_sac.methods.dfsp import DFSP
from czsl_sac.methods.sac import SAC, BankOptions
from czsl_sac.methods.troika import Troika
from czsl_sac.methods.zero_shot import ZeroShotCLIP

__all__ = [
    "CSP",
    "DFSP",
    "SAC",
    "BankOptions",
    "CZSLMethod",
    "CoOp",
    "ParameterGroup",
    "Predictor",
    "Troika",
    "ZeroShotCLIP",
]

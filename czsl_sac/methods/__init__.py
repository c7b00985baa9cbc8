"""CZSL methods on CLIP, one file each: what they train, what they minimise, how they score."""

from czsl_sac.methods.base import CZSLMethod, ParameterGroup, Predictor
from czsl_sac.methods.coop.method import CoOp
from czsl_sac.methods.csp.method import CSP
from czsl_sac.methods.dfsp.method import DFSP
from czsl_sac.methods.sac.method import SAC, BankOptions
from czsl_sac.methods.troika.method import Troika
from czsl_sac.methods.zero_shot.method import ZeroShotCLIP

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

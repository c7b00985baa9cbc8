"""What the tests of LoRA share."""

from torch import nn

from czsl_sac.clip.adapters.low_rank import LoRA

ALL = ("q", "k", "v", "o", "mlp")


def randomise(module: nn.Module) -> None:
    """Sets every B away from zero, as training would."""
    for name, parameter in module.named_parameters():
        if name.endswith("lora_B"):
            nn.init.normal_(parameter, std=0.3)


def adapters(module: nn.Module) -> dict[str, LoRA]:
    return {name: m for name, m in module.named_modules() if isinstance(m, LoRA)}

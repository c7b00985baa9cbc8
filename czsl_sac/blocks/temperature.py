"""Temperatures of the blocks: a number, a tensor that moves with the module, or one learned."""

from torch import Tensor, nn

from czsl_sac.checks import check_range


def set_temperature(module: nn.Module, name: str, value: float | Tensor) -> None:
    """Set a temperature as an attribute; a tensor becomes a buffer, a parameter is learned.

    Args:
        module: what gets the attribute.
        name: of the attribute.
        value: a positive finite number, or a tensor of one.

    Raises:
        ValueError: the value is not positive and finite.

    Examples:
        >>> module = nn.Module()
        >>> set_temperature(module, "temperature", nn.Parameter(torch.tensor(0.5)))
        >>> list(module.state_dict()), temperature_number(module.temperature)
        (['temperature'], 0.5)
    """
    check_range(name, temperature_number(value), above=0, below=float("inf"))
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        module.register_buffer(name, value)
    else:
        setattr(module, name, value if isinstance(value, Tensor) else float(value))


def temperature_number(value: float | Tensor) -> float:
    """Return a temperature as a number, without gradient.

    Raises:
        ValueError: it is a tensor of more than one number.
    """
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(
            f"temperature has shape {list(value.shape)} but must be one number: give a scalar."
        )
    return float(value.detach() if isinstance(value, Tensor) else value)

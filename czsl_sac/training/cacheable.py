"""What a feature cache can hold: images as the frozen part of the vision tower leaves them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from czsl_sac.training.config import TrainConfig


def check_cacheable(config: "TrainConfig") -> None:
    """Refuse a feature cache for a run whose features differ from epoch to epoch.

    Args:
        config: of a run with `feature_cache`.

    Raises:
        ValueError: an option contradicts the cache.
    """
    train, method = config.backbone.train_backbone, config.method
    option = {"lora": "lora_layers", "adaptformer": "adapter_layers"}.get(train)
    higher = f"take {option} that leave out layer 0, or " if option else ""
    for conflict, what, remedy in (
        (
            config.backbone.first_trained_layer == 0,
            f"train_backbone is {train!r} from the first layer on",
            f"{higher}set train_backbone to none",
        ),
        (config.data.augment, "augment is on", "turn augment off"),
        (config.backbone.patch_drop > 0, "patches are dropped at random", "set patch_drop to 0"),
        (method.reads == "states", f"{method.label} reads inner states", "take another method"),
    ):
        if conflict:
            raise ValueError(
                f"feature_cache is {str(config.data.feature_cache)!r} but {what}, and a cache "
                "must hold what frozen layers of the vision tower make of an image, one set an "
                f"image: {remedy}, or leave feature_cache out."
            )

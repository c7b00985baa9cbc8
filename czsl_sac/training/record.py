"""The record of a run: all that decided it, kept so that nothing can change unnoticed."""

import json
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from hashlib import sha256
from importlib.metadata import distributions
from typing import Any

from czsl_sac._version import __version__
from czsl_sac.files import is_sealed, seal
from czsl_sac.space import CompositionSpace
from czsl_sac.training.config import TrainConfig

FORMAT = 2
"""Version of the run folder's files."""

_LIBRARIES = (
    *("torch", "torchvision", "openai-clip", "open_clip_torch", "transformers", "accelerate"),
)

CHANGEABLE = frozenset(
    {
        *("data.data_root", "data.num_workers", "data.feature_cache", "optim.eval_batch_size"),
        *("optim.epochs", "optim.compile", "backbone.checkpoint_vision"),
    }
)
"""Options that a resumed run may change; all others were decided when it began."""


@dataclass(frozen=True)
class RunRecord:
    """What a run is.

    Attributes:
        config: its configuration.
        space: the compositions that it was trained with.
        backbone: name of the CLIP that it started from.
        checksum: of that CLIP's weights.
        splits: fingerprint of each split of the data set.
        versions: of this package and the libraries that decide figures.
        created: date and time, UTC.
        changes: what a resumed run changed: option, from, to, and the epoch since when.
    """

    config: TrainConfig
    space: CompositionSpace
    backbone: str
    checksum: str
    splits: dict[str, str]
    versions: dict[str, str] = field(default_factory=lambda: installed_versions())
    created: str = field(
        default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds")
    )
    changes: tuple[dict[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON types, with a checksum of itself."""
        values = {
            "format": FORMAT,
            "config": self.config.to_dict(),
            "space": self.space.to_dict(),
            "backbone": {"name": self.backbone, "checksum": self.checksum},
            "splits": self.splits,
            "versions": self.versions,
            "created": self.created,
            "changes": list(self.changes),
        }
        return seal(values)

    @classmethod
    def from_dict(cls, values: Any) -> "RunRecord":
        """Build a record from `to_dict`'s form.

        Args:
            values: what the file holds.

        Raises:
            ValueError: the run is of another version, or the record was changed.
        """
        if not isinstance(values, dict):
            raise ValueError("the file is foreign but must be a run's record: train it again.")
        if "format" not in values and {"data", "optim", "model"} <= values.keys():
            raise ValueError(
                "the run was made by czsl-sac 0.1 but must be of this version, since methods "
                "have other options now: train it again, or install czsl-sac 0.1."
            )
        if values.get("format") != FORMAT:
            raise ValueError(
                f"the run has format {values.get('format')!r} but must have {FORMAT}: it was made "
                f"by another version than this czsl-sac {__version__}; train it again."
            )
        if not is_sealed(values):
            raise ValueError(
                "the record is damaged but must be as the run wrote it: put a copy back, or train "
                "the run again."
            )
        backbone, splits, versions = values["backbone"], values["splits"], values["versions"]
        texts = (*backbone.values(), *splits.values(), *versions.values(), values["created"])
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("the record is damaged but must hold texts: train the run again.")
        return cls(
            TrainConfig.from_dict(values["config"]),
            CompositionSpace.from_dict(values["space"]),
            backbone["name"],
            backbone["checksum"],
            splits,
            versions,
            values["created"],
            tuple({**change} for change in values["changes"]),
        )

    @property
    def identity(self) -> str:
        """Checksum of what never changes: by it a run's files know that they belong to it."""
        decided = _flat(self.config.to_dict())
        fixed = {name: value for name, value in decided.items() if name not in CHANGEABLE}
        parts = (fixed, self.space.to_dict(), self.checksum, self.splits, self.created)
        return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def continued(self, config: TrainConfig, epoch: int) -> "RunRecord":
        """Return the record of a run that goes on with some options changed.

        Args:
            config: the new configuration.
            epoch: epochs that have ended.

        Raises:
            ValueError: an option differs that was decided when the run began.
        """
        changes = []
        for name, (old, new) in differences(self.config, config).items():
            option = name.partition(".")[2] or name
            if name not in CHANGEABLE:
                raise ValueError(
                    f"{option} is {new!r} but must be {old!r}, as the run was begun: leave it "
                    "out, or begin another run."
                )
            changes.append({"option": option, "from": old, "to": new, "after_epoch": epoch})
        return replace(self, config=config, changes=(*self.changes, *changes))


def differences(one: TrainConfig, other: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Return the options in which two configurations differ, each with both values.

    Examples:
        >>> from czsl_sac.training.presets import preset_for
        >>> from dataclasses import replace
        >>> config = preset_for("scenes")
        >>> differences(config, replace(config, seed=3))
        {'seed': (0, 3)}
    """
    flat_one, flat_other = _flat(one.to_dict()), _flat(other.to_dict())
    return {
        name: (flat_one.get(name), flat_other.get(name))
        for name in dict.fromkeys((*flat_one, *flat_other))
        if flat_one.get(name) != flat_other.get(name)
    }


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found.update({f"{name}.{option}": own for option, own in value.items()})
        else:
            found[name] = value
    return found


def installed_versions() -> dict[str, str]:
    """Return the versions of this package and of the libraries that decide figures."""
    known = {d.name: d.version for d in distributions() if d.name in _LIBRARIES}
    return {"czsl-sac": __version__, **dict(sorted(known.items()))}

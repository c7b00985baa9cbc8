"""Generated scenes: a data set with known causes, drawn when asked for."""

from czsl_sac.data.scenes.items import SceneDataset, SmallObjects
from czsl_sac.data.scenes.scenes import Scenes

__all__ = ["SceneDataset", "Scenes", "SmallObjects"]

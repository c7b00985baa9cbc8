"""Generated scenes: a data set with known causes, drawn when asked for."""

from czsl_sac.data.scenes.scenes import SceneDataset, Scenes

__all__ = ["SceneDataset", "Scenes"]

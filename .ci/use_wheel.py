"""Use the installed czsl_sac away from the checkout: the tiny CLIP ranks a scene's composition."""

import sys
from pathlib import Path

import torch

import czsl_sac

assert Path(sys.argv[1]) not in Path(czsl_sac.__file__).parents, czsl_sac.__file__

backbone = czsl_sac.load_backbone("tiny")
scenes = czsl_sac.Scenes()
image, target = scenes.split("test")[0]
model = czsl_sac.ZeroShotCLIP(backbone, scenes.space).eval()
with torch.no_grad():
    scores = model.predictor(scenes.space)(image[None])[0]
rank = int((scores > scores[target]).sum()) + 1
print(f"{' '.join(scenes.space.pairs[target])}: ranked {rank} of {len(scores)} compositions")
assert scores.shape == (len(scenes.space),)
assert scores.isfinite().all()
assert rank <= len(scores) // 4, "the weights in the wheel know nothing of the scenes"

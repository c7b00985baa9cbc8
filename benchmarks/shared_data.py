"""Where the data lie that are beside the checkout and no part of it."""

import os
from pathlib import Path

VARIABLE = "CZSL_SAC_SHARED"
SHARED = Path(os.environ.get(VARIABLE, Path(__file__).parents[2] / "shared/data")).resolve()
"""The folder that the environment variable names, or ../shared/data."""

if VARIABLE in os.environ and not SHARED.is_dir():
    raise FileNotFoundError(f"{VARIABLE} names {SHARED}, which is no folder: correct or unset it.")

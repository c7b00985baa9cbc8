"""How many times more examples than usual the property tests of protocols and bank take."""

import os

MANY = int(os.environ.get("CZSL_SAC_EXAMPLES", "1"))
"""Factor on the number of examples; `pytest -m slow tests/test_long_forms.py` sets it to 10."""

"""`python -m czsl_sac`, the same as the console script `czsl-sac`."""

import sys

from czsl_sac.cli import main

sys.exit(main())

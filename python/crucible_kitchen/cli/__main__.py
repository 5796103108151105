"""``python -m crucible_kitchen.cli``."""

import sys

from crucible_kitchen.cli import main

sys.exit(main())

"""``python -m koko``: the command ``koko``."""

import sys

from koko.cli import main

sys.exit(main())

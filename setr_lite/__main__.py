"""``python -m setr_lite``, and what torchrun starts."""

import sys

from .cli import main

sys.exit(main())

"""python -m sage2_capture"""

import sys

from .cli import main

sys.exit(main())

"""Checkpoint6/align_ranks.py with the bug that PORTING_BUG names."""

import os

from bugs import BUGS

from Checkpoint6 import align_ranks

BUGS[os.environ["PORTING_BUG"]].apply(setattr)
align_ranks.main()

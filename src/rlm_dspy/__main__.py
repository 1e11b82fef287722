"""``python -m rlm_dspy`` is the command ``rlm-dspy``."""

import sys

from rlm_dspy.cli import main

if __name__ == "__main__":
    sys.exit(main())

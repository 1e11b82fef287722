"""Run the command ``rlm-dspy`` as ``python -m rlm_dspy``."""

import sys

from rlm_dspy.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""The command ``rlm-dspy``, also as ``python -m rlm_dspy``."""

import sys

try:
    from rlm_dspy.cli import main
except KeyboardInterrupt:  # the imports take a while
    print("rlm-dspy: interrupted.", file=sys.stderr)
    sys.exit(130)

if __name__ == "__main__":
    sys.exit(main())

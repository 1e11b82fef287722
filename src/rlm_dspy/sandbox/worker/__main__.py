"""Entry of the zygote: ``python -s -P -S -B worker/__main__.py CONTROL_FD LIFE_FD``.

The folder is imported as a package of its own, so that neither ``rlm_dspy`` nor its dependencies are loaded.
"""

import gc
import os
import sys
import types
from importlib import import_module

if __name__ == "__main__":
    gc.disable()  # nothing made before the first session is garbage
    package = types.ModuleType("rlm_worker")
    package.__path__ = [os.path.dirname(os.path.abspath(__file__))]
    sys.modules["rlm_worker"] = package
    import_module("rlm_worker.zygote").main(int(sys.argv[1]), int(sys.argv[2]))

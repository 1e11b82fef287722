"""Starts the program where nothing of the package around it is loaded."""

import importlib
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parent.parent))  # last, so that nothing there stands before a library
    importlib.import_module("office").main()

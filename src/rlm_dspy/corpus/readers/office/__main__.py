"""Start the program without loading the enclosing package."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

NAME = "rlm_office"  # not the name of any library


def main() -> None:
    """Load this folder as a separate package, and run it."""
    spec = spec_from_file_location(NAME, Path(__file__).with_name("__init__.py"))
    assert spec is not None
    assert spec.loader is not None
    package = module_from_spec(spec)
    sys.modules[NAME] = package
    spec.loader.exec_module(package)
    package.main()


if __name__ == "__main__":
    main()

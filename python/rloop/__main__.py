"""`python -m rloop`: runs a program on rloop (`_launch.py`), or tells what is installed (`_doctor.py`)."""

from __future__ import annotations

import sys

from . import _doctor


def main() -> int:
    arguments = sys.argv[1:]
    if arguments in ([], ["doctor"]):
        return _doctor.main()
    from . import _launch

    return _launch.main(arguments)


if __name__ == "__main__":
    sys.exit(main())

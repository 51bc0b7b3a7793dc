"""`python -m rloop`: runs a program on rloop (`_launch.py`), tells what is installed (`_doctor.py`), or shows what the
loops of other processes do (`_top.py`).
"""

from __future__ import annotations

import sys

from . import _doctor


def main() -> int:
    arguments = sys.argv[1:]
    if arguments in ([], ["doctor"]):
        return _doctor.main()
    if arguments[0] == "top":
        from . import _top

        return _top.main(arguments[1:])
    from . import _launch

    return _launch.main(arguments)


if __name__ == "__main__":
    sys.exit(main())

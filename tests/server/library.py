# SPDX-License-Identifier: MIT
"""hook_io, where it is: the judge of the contract comes without it."""

import os
import sys

from .contract import Refused

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def library():
    """Return the module hook_io of this project; raise Refused where there is none."""
    if ROOT not in sys.path:
        sys.path.append(ROOT)
    try:
        import hook_io
    except ImportError:
        raise Refused(404, f"Invalid path: needs hook_io.py in {ROOT}") from None
    return hook_io

# SPDX-License-Identifier: MIT
"""Start the server: python3 tests/server."""

import os
import sys

# A folder that is run stands first in the path, where its modules have no package.
sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from server.command import main

if __name__ == "__main__":
    main()

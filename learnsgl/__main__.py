"""`python -m learnsgl`: the same command line as the console script `learnsgl`.

The Makefile and the demo start the program this way, since a script's first line can't name an interpreter whose
path has a space in it.
"""

import sys

from learnsgl.cli import main

if __name__ == "__main__":  # the server's children import this module too, under another name
    sys.exit(main())

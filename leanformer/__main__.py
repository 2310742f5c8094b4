"""`python -m leanformer`, which `torchrun -m leanformer` starts on every process."""

import sys

from leanformer.cli import main

if __name__ == "__main__":
    sys.exit(main())

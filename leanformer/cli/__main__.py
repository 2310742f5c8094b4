"""`python -m leanformer.cli`, which `torchrun -m` needs too."""

from leanformer.cli import main

raise SystemExit(main())

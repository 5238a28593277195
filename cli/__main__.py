"""`python -m anchorshot.cli`: the `anchorshot` command without an installed script."""

from . import main

raise SystemExit(main())

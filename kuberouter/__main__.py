"""`python -m kuberouter`."""

from kuberouter.daemon.cli import main

raise SystemExit(main())

"""`python -m skillaudit.cli`."""

import sys

from skillaudit.cli.app import main

sys.exit(main())

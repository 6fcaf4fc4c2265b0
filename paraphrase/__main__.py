import sys

from paraphrase.cli import main

sys.exit(main())

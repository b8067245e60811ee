"""``python -m cca_cli``."""

from cca_cli.app import main

main()

"""`python -m ma_agiqa` is the command `ma-agiqa`."""

from ma_agiqa.cli import main

main()

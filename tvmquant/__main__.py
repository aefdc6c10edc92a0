"""``python -m tvmquant`` is the command ``tvmquant``."""

from tvmquant.cli import main

main(prog_name="tvmquant")

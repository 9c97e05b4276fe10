"""`python -m jobs.cli`: the `refrain` command where its script is not on the path."""

from jobs.cli import main

main()

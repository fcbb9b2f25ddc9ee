"""`python -m hippylib_dino.cli`."""

from hippylib_dino.cli.entry import main

main()

"""`python -m scg` is `scg`."""

from scg.commands.cli import main

if __name__ == "__main__":
    raise SystemExit(main())

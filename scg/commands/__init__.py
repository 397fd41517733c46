"""The `scg` command, and the subcommands of the core."""

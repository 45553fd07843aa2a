"""Groups of subcommands, one module each."""

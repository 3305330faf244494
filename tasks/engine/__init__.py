"""What every task shares: the module's base, command line, trainer, records."""

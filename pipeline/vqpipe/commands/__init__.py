"""What a person asks for: one file a command, one place for options, one way to an exit code."""

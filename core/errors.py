"""Errors that are the user's to mend: one line that names the file, field or flag and what would be right."""


class InputError(ValueError):
    """Bad input. The command line prints it as one line and exits with code 2."""

"""Errors that are the user's to mend: one line that names the file, field or flag and what would be right."""


class InputError(ValueError):
    """Bad input. The command line prints it as one line and exits with code 2."""


class Interrupted(Exception):
    """Work stopped for a reason that passes, and can go on where it was. The message says why and how, in one line."""


class Stopped(Exception):
    """Work was given up, since it could not succeed as it is. The message says why, and what to do, in one line."""


def first_line(error: BaseException) -> str:
    """An error in a line, without its type where it says something itself."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]

"""The one exception that means "the input is wrong, not the program"."""


class UserError(ValueError):
    """Bad input, said in one line: what is wrong, where, and what to do.

    Library code raises it (or a plain ``ValueError``/``TypeError`` for programming mistakes); every command line entry turns it
    into ``error: <message>`` on standard error and exit status 2, without a traceback.
    """

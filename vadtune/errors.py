"""The errors a user can mend, and the one that ends a trial."""

INTERRUPTED = 130  # exit code of a program that was told to stop


class VadtuneError(Exception):
    """Something that the user can mend: one line on stderr, exit code 2."""

    exit_code = 2


class ConfigError(VadtuneError):
    """A flag or a file of settings is wrong: edit it."""


class DataError(VadtuneError):
    """A table cannot be used as it is: fix it."""


class ArtifactError(VadtuneError):
    """An exported model or a run folder cannot be used: export it again."""


class NoUsableTrial(VadtuneError):
    """The search ended without one trial that can be used."""

    exit_code = 3


class Diverged(Exception):
    """A trial's numbers are no longer finite: the trial FAILs with this reason, the search goes on."""


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

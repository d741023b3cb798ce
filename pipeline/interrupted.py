"""What ends a long piece of work although its input is sound."""


class Interrupted(ValueError):
    """A sentence for the user about what the input is not to blame for: a full disk, a hub that has gone away.

    What was finished is worth keeping: the same command may go on from it later.
    """

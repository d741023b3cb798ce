"""Reading from elsewhere: what a lost connection breaks off is taken up again where it was lost."""

import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from ..interrupted import Interrupted

ATTEMPTS = 6
FIRST_PAUSE = 1.0  # seconds before the second attempt, twice as long before each further one: 31 s in all
T = TypeVar("T")


def taken_up(place: str, rows_from: Callable[[int], Iterator[T]], lost: Callable[[Exception], bool]) -> Iterator[T]:
    """The rows of rows_from(0), begun again by rows_from(number of the next one) where an error tells of a lost
    connection. ValueError naming `place` where another error comes; Interrupted, also a ValueError, where the first row
    cannot be had for want of a connection, and after ATTEMPTS failures in a row."""
    number, failures = 0, 0
    while True:
        try:
            for row in rows_from(number):
                yield row
                number, failures = number + 1, 0
            return
        except Exception as error:  # the libraries beneath raise anything for a damaged file
            failures += 1
            if not lost(error) or number == 0 or failures == ATTEMPTS:
                kind = Interrupted if lost(error) else ValueError
                raise kind(_sentence(place, number, failures, error)) from error
            pause = FIRST_PAUSE * 2 ** (failures - 1)
            told = f"the connection is lost after row {number - 1} ({one_line(error)})"
            print(f"{place}: {told}; attempt {failures + 1} of {ATTEMPTS} in {pause:g} s", file=sys.stderr, flush=True)
            time.sleep(pause)


def one_line(error: Exception) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _sentence(place: str, number: int, failures: int, error: Exception) -> str:
    if number == 0:
        return f"{place} cannot be loaded: {one_line(error)}"
    often = f" (attempt {failures}); run the same command when it is back" if failures > 1 else ""
    return f"{place} cannot be read after row {number - 1}: {one_line(error)}{often}"

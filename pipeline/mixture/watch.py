"""How whoever calls `prepare` may see what goes on."""

from collections.abc import Callable, Iterable, Iterator

# (what is being done, the things it is done to, how many there are if known) -> the same things, watched
Watch = Callable[[str, Iterable, int | None], Iterator]


def unwatched(what: str, things: Iterable, total: int | None) -> Iterator:
    """The things, and nobody looks."""
    return iter(things)

"""Ctrl-C while a sweep goes on: once, the cases at hand are finished; twice, it stops at once."""

import sys


class Interrupt:
    """What SIGINT calls.  `requested`: it has come.

    Not KeyboardInterrupt at once: omegaconf, caught while it composes the next case, raises nonsense in its place.
    """

    def __init__(self) -> None:
        self.requested = self._closing = False

    def __call__(self, *_: object) -> None:
        if self._closing:
            self._closing = False  # meant for cases that have ended by now; their summary is printed soon
            return
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        signs = "attn-lab: interrupted; finishing the case at hand (Ctrl-C again stops at once)"
        if sys.stderr is not None:
            sys.stderr.write(f"{signs}\n")  # in one call: the second may come between two
            sys.stderr.flush()

    def raise_if_interrupted(self) -> None:
        """Called between two cases: raises KeyboardInterrupt if it has come."""
        if self.requested:
            raise KeyboardInterrupt

    def close(self) -> None:
        """No case is at hand any more."""
        self._closing = self.requested

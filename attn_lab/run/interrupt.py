"""Ctrl-C while a sweep goes on: once, the cases at hand are finished; twice, it stops at once."""

import sys


class Interrupt:
    """What SIGINT calls.  `asked`: it has come.

    Not KeyboardInterrupt at once: omegaconf, caught while it composes the next case, raises nonsense in its place.
    """

    def __init__(self) -> None:
        self.asked = self._closing = False

    def __call__(self, *_: object) -> None:
        if self._closing:
            self._closing = False  # meant for cases that have ended by now; the summary they leave is soon told
            return
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        signs = "attn-lab: interrupted; finishing the case at hand (Ctrl-C again stops at once)"
        sys.stderr.write(f"{signs}\n")  # in one call: the second may come between two
        sys.stderr.flush()

    def heed(self) -> None:
        """Called between two cases: raises KeyboardInterrupt if it has come."""
        if self.asked:
            raise KeyboardInterrupt

    def close(self) -> None:
        """No case is at hand any more."""
        self._closing = self.asked

"""The words behind a command, read by argparse, which refuses them in one line as everything here is refused."""

import argparse
from typing import NoReturn

from attn_lab.core.errors import BadRequest


class Words(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadRequest(f"{self.prog.removeprefix('attn-lab ')}: {message} ({self.prog} --help tells more)")

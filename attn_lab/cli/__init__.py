"""The command line: one parser, one module a command.  Each module has `arguments(parser)` and `run(given)`."""

from attn_lab.cli.main import main
from attn_lab.cli.parser import COMMANDS

__all__ = ["COMMANDS", "main"]

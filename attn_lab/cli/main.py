"""The entry point: a command or a sweep, and its exit code."""

import io
import os
import sys
from collections.abc import Sequence

from attn_lab.core.errors import BadRequest


def main(arguments: Sequence[str] | None = None) -> None:
    """attn-lab [COMMAND … | Hydra overrides].

    Exits 0; 1 if a case was wrong or failed, or none could run; 2 for a bad request; 130 after Ctrl-C.
    """
    argv = list(sys.argv[1:] if arguments is None else arguments)
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # torch's profiler otherwise logs its start and stop to stderr
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show × shows ?
    try:
        sys.exit(execute(argv))
    except BadRequest as error:
        print(f"attn-lab: {' '.join(str(error).splitlines())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:  # of a command, or before a sweep has begun
        print("attn-lab: interrupted", file=sys.stderr)
        sys.exit(130)


def execute(argv: Sequence[str]) -> int:
    """Runs one command line and returns its exit code.  Raises BadRequest."""
    argv = list(argv)
    if not argv or argv == ["help"] or (argv[0] in ("-h", "--help")):
        from attn_lab.cli.help import text

        print(text(), end="")
        return 0
    if argv[0] == "--version":
        from attn_lab import __version__

        print(f"attn-lab {__version__}")
        return 0
    if "=" not in argv[0] and not argv[0].startswith(("-", "~", "+")):
        from attn_lab.cli.parser import parse

        given = parse(argv[0], argv[1:])
        return int(given.run(given))
    if {"-h", "--help"} & {*argv}:
        return execute(["--help"])
    from attn_lab.run.main import run_sweep

    return run_sweep(argv)

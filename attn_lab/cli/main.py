"""The entry point: a command or a sweep, and its exit code."""

import errno
import os
import sys
from collections.abc import Sequence

from attn_lab.core.errors import BadRequest
from attn_lab.records.printable import harmless_streams
from attn_lab.run.output import drain


def main(arguments: Sequence[str] | None = None) -> None:
    """attn-lab [COMMAND … | Hydra overrides].

    Exits 0; 1 if a case was wrong or failed, or none could run; 2 for a bad request; 130 after Ctrl-C.
    """
    argv = list(sys.argv[1:] if arguments is None else arguments)
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # torch's profiler otherwise logs its start and stop to stderr
    with harmless_streams():
        sys.exit(_exit_code(argv))


def _exit_code(argv: Sequence[str]) -> int:
    try:
        code = execute(argv)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except BadRequest as error:
        _complain(" ".join(str(error).splitlines()))
        return 2
    except KeyboardInterrupt:  # of a command, or before a sweep has begun
        _complain("interrupted")
        return 130
    except BrokenPipeError:  # what was read of the output was enough
        drain(sys.stdout)
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO, errno.EBADF) or error.filename is not None:
            raise
        drain(sys.stdout)
        _complain(f"standard output: expected room to write to; got {error.strerror}")
        return 2


def _complain(line: str) -> None:
    """One line on standard error, if there is one."""
    try:
        print(f"attn-lab: {line}", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        drain(sys.stderr)


def execute(argv: Sequence[str]) -> int:
    """Runs one command line and returns its exit code.  Raises BadRequest."""
    argv = list(argv)
    try:
        os.getcwd()
    except FileNotFoundError:
        raise BadRequest("working directory: expected one that is there; got one that was deleted") from None
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

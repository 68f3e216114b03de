"""The command line: one file a verb, which parses, calls and prints. Heavy imports are inside the verbs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from kdsearch.errors import KdsearchError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 2 wrong input, 3 refused, 130 interrupted, 1 anything else.

    Every error is one message on stderr; only an error of our own has a traceback.
    """
    from kdsearch.cli.app import app

    try:
        code = app(args=None if arguments is None else list(arguments), prog_name="kdsearch", standalone_mode=False)
        sys.stdout.flush()
    except KdsearchError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # `kdsearch plugins | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if not hasattr(error, "format_message"):  # the parser's own: an unknown option, a missing argument
            raise
        print(_refusal(error), file=sys.stderr)
        return int(getattr(error, "exit_code", 2))
    if code == 130:  # the parser turns Ctrl-C into its exit code
        print("Interrupted.", file=sys.stderr)
    return code if isinstance(code, int) else 0


def _refusal(error: Exception) -> str:
    """The parser's complaint as one line: verb, what is wrong, where to read on."""
    verb = getattr(getattr(error, "ctx", None), "command_path", "kdsearch")
    problem = " ".join(error.format_message().split())  # type: ignore[attr-defined]
    end = "" if problem.endswith((".", "?")) else "."
    return f"{verb}: {problem[:1].lower()}{problem[1:]}{end} See `{verb} --help`."

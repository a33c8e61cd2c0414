"""The command `aggnets`: its list of subcommands, and `main`, which runs one of them.

Exit codes: 0 done; 2 an input is wrong; 3 the run diverged; 74 a file could not be written; 75 a
signal stopped the run, which saved its state and can be resumed with the same command; 76 another
of several processes was lost; 130 and 143 a signal ended the command at once; 141 nobody reads its
output any more.

Slow modules are imported only after `main` has installed the handlers of signals.
"""

import sys
from collections.abc import Sequence

import aggnets_jax
from aggnets_jax.runtime.interrupts import end_at_signals, ignore_signals
from aggnets_jax.runtime.notes import note
from aggnets_jax.runtime.streams import flush_streams, open_streams


def overview() -> str:
    """Return the list of all subcommands, with a line for each."""
    from aggnets_jax import commands

    lines = ["usage: aggnets COMMAND [FLAG ...]"]
    for title, names in commands.GROUPS.items():
        lines += ["", f"{title}:"]
        lines += [f"  {name:<14}{commands.first_line(name)}" for name in names]
    lines += [
        "",
        "aggnets COMMAND --help shows its flags and an example.",
        "--flagfile=FILE reads flags of any command from a file, one in each line.",
        "aggnets --version prints the version of this package.",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    Args:
      arguments: words after `aggnets`; by default the words of this process, which then ends with
        one line at a signal.
    """
    if arguments is None:
        end_at_signals()
        open_streams()
    from aggnets_jax.cli import exit_code

    words = list(sys.argv[1:] if arguments is None else arguments)
    code = 0
    try:
        code = exit_code(lambda: _run(words))
    except Exception:  # a defect; but the other processes of a run must not wait for this one
        import traceback

        traceback.print_exc()
        code = 1
    finally:
        if arguments is None:
            code = flush_streams(code)
            ignore_signals()  # Python resets handlers while it ends, and would die of a signal
    if code and "jax" in sys.modules:
        from aggnets_jax.runtime.distributed import leave

        leave(code)
    return code


def _run(words: Sequence[str]) -> int | None:
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return 0
    if words[0] == "--version":
        print(aggnets_jax.__version__)
        return 0
    import shlex

    from aggnets_jax import commands
    from aggnets_jax.config_fields.plugins import import_from_environment
    from aggnets_jax.errors import UserError, unknown

    import_from_environment()
    name, *rest = _with_subcommand(words)
    if name not in commands.NAMES:
        raise UserError(f"{unknown('command', name, commands.NAMES)}; see aggnets --help")
    flags = commands.make_parser(name).parse(rest)
    flags.command = shlex.join(["aggnets", name, *rest])
    commands.COMMANDS[name].check(flags)
    if commands.COMMANDS[name].compiles:
        note("importing JAX")
        from aggnets_jax.runtime.compilation import enable_program_cache

        enable_program_cache()
    return commands.COMMANDS[name].run(flags)


def _with_subcommand(words: Sequence[str]) -> Sequence[str]:
    """Return a command line whose first word is a subcommand.

    `python -m aggnets_jax.main` had no subcommands but --mode=NAME, by default "train".
    """
    if not words[0].startswith("-"):
        return words
    from aggnets_jax.cli import Parser

    old = Parser(prog="aggnets", add_help=False)
    old.add_argument("--mode", default="train")
    flags, rest = old.parse_known_args(words)
    return [flags.mode, *rest]


if __name__ == "__main__":
    sys.exit(main())

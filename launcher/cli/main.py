"""The `launch` command: choose the verb, print errors, set the exit code. Imports no torch."""

import contextlib
import errno
import os
import select
import sys
import traceback
from collections.abc import Callable, Sequence

from launcher.cli.problems import QUIET, SCREEN, VERBOSE, problems_json, shown_lines, wants_colour
from launcher.errors import Problem, StoreError, UserError, as_store_error, is_cloud_error

USAGE = """\
usage: launch RECIPE [key=value ...] [--nodes N] [--nproc-per-node M] [--run-dir URL] [--dry-run]
       launch VERB ...

Train a recipe, here or on a cluster, so that it can be resumed and explained.

  launch RECIPE        start a new run
  launch resume RUN    continue a run from its newest good checkpoint
  launch plan RECIPE   print every derived number and the parameter groups (--full: the script, too)
  launch validate RECIPE...
                       check recipes, many at once: every key, value and rule; reads no data
  launch recipes       a line for each recipe, here or shipped
  launch init [NAME]   copy a shipped recipe here, to change it; or begin an extension
  launch diff A [B]    the values in which two recipes or runs differ, or a run and its source
  launch explain RECIPE
                       print every parameter's role, width, init, rate and decay, and the rules for them
  launch shapes RECIPE -o FILE
                       write the base shapes that rates scale from (the mup package's .bsh)
  launch check RECIPE  test that nothing depends on width, whole and sharded; overfit, gradients, states
  launch sweep RECIPE  train a grid of values, such as optim.lr=1e-3,2e-3 seed=1,2; table and transfer picture
  launch data build SOURCE... -o DIR --tokenizer FILE
                       text, jsonl or parquet to a data set; also train-tokenizer, inspect, verify
  launch generate RUN --prompt TEXT
                       continue a text with the newest good checkpoint, token by token
  launch eval RUN|CHECKPOINT
                       loss, perplexity, accuracy and bits per byte on validation data, its own or other
  launch status [RUN]  how a run ended or how far it is, its job, where its time went; without RUN, all runs
  launch ls            a line for each run
  launch watch RUN     how it stands, live on a terminal, from any machine that sees its folder
  launch report RUN... one page of what it did, with pictures, or of several side by side
  launch trace RECIPE|RUN
                       train a few steps, to see what operators, kernels and communication take
  launch logs RUN      what it has printed; -f follows, --rank R and --attempt A choose
  launch cancel RUN    end its training: it saves, and is not started again by itself
  launch profile init  write a site's facts for the `cluster` section of recipes, by asking Slurm
  launch doctor        what a run will find here and, with --cluster, on nodes; each finding with its remedy
  launch inspect CHECKPOINT|RUN [OTHER]
                       what a checkpoint holds, and how it differs from another
  launch verify RUN    read every checkpoint and compare all digests
  launch export CHECKPOINT|RUN OUT.safetensors
                       the model with recipe, base shapes, tokenizer and card, for plain torch
  launch replay RUN    send MLflow what it has not received of a run that is over
  launch schema        print the JSON Schema of recipes, for editors
  launch completion SHELL
                       what makes bash, zsh or fish complete verbs, runs, recipes, flags and keys
  launch ui            open MLflow's pages on the default store

`launch VERB --help` says more, `launch --version` what is installed. RECIPE is a file, or the name of a
shipped one. Any value of it can be given as key=value, such as optim.lr=3e-4. Every verb takes -q (problems
only) and -v (where in the code a problem was found).
"""
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
_NEEDED = ("torch", "numpy", "deepspeed", "mlflow", "safetensors")
"""What is imported only by verbs that need it."""
VERBS = (
    "resume",
    "plan",
    "validate",
    "recipes",
    "init",
    "diff",
    "explain",
    "shapes",
    "check",
    "sweep",
    "data",
    "generate",
    "eval",
    "status",
    "ls",
    "watch",
    "report",
    "trace",
    "logs",
    "cancel",
    "profile",
    "doctor",
    "inspect",
    "verify",
    "export",
    "replay",
    "schema",
    "completion",
    "ui",
)

Verb = Callable[[Sequence[str]], int]


def _find_verb(name: str) -> Verb:
    """The function of a verb, imported only when it is used, so that help and errors stay fast."""
    match name:
        case "plan":
            from launcher.cli.run import plan_recipe as verb
        case "validate":
            from launcher.cli.recipes import validate_recipes as verb
        case "recipes":
            from launcher.cli.recipes import list_recipes as verb
        case "init":
            from launcher.cli.recipes import copy_recipe as verb
        case "diff":
            from launcher.cli.recipes import diff_recipes as verb
        case "explain":
            from launcher.cli.explain import explain_recipe as verb
        case "shapes":
            from launcher.cli.explain import write_shapes as verb
        case "check":
            from launcher.cli.check import check_recipe as verb
        case "sweep":
            from launcher.cli.sweep import sweep_recipe as verb
        case "data":
            from launcher.cli.data import data_verb as verb
        case _:
            return _find_run_verb(name)
    return verb


def _find_run_verb(name: str) -> Verb:
    """Those about runs and checkpoints, and this machine."""
    match name:
        case "resume":
            from launcher.cli.resume import resume_run as verb
        case "generate":
            from launcher.cli.generate import generate_text as verb
        case "eval":
            from launcher.cli.evaluate import evaluate_checkpoint as verb
        case "status":
            from launcher.cli.status import show_status as verb
        case "ls":
            from launcher.cli.status import list_runs as verb
        case "watch":
            from launcher.cli.watch import watch_run as verb
        case "report":
            from launcher.cli.report import write_report as verb
        case "trace":
            from launcher.cli.trace_steps import trace_steps as verb
        case "logs":
            from launcher.cli.logs import show_logs as verb
        case "cancel":
            from launcher.cli.cancel import cancel_run as verb
        case "profile":
            from launcher.cli.profile_init import write_profile as verb
        case "doctor":
            from launcher.cli.doctor import run_doctor as verb
        case "inspect":
            from launcher.cli.inspect import inspect_checkpoint as verb
        case "verify":
            from launcher.cli.inspect import verify_run as verb
        case "export":
            from launcher.cli.export import export_checkpoint as verb
        case "replay":
            from launcher.cli.tracking import replay_run as verb
        case "schema":
            from launcher.cli.explain import print_schema as verb
        case "completion":
            from launcher.cli.completion import print_script as verb
        case "ui":
            from launcher.cli.tracking import open_ui as verb
        case _:
            raise ValueError(f"{name} is not a verb; verbs are {', '.join(VERBS)}")
    return verb


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit code: 2 for what the user can fix, 130 for ctrl-C."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # pydantic searches all installed packages for plugins, which takes longer than checking a recipe.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    while len(arguments) > 1 and arguments[0] in (*QUIET, *VERBOSE):  # `launch -q VERB` is `launch VERB -q`
        arguments = [*arguments[1:], arguments[0]]
    if not set(QUIET).isdisjoint(arguments):
        _drop_output()
    try:
        code = _dispatch(arguments)
        return _flush() or code
    except UserError as error:
        if not set(VERBOSE).isdisjoint(arguments):
            traceback.print_exc()
        if "--json" in arguments:
            print(problems_json(error.problems))
        else:
            print_problems(error)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        return 141  # what a shell reports for SIGPIPE: 128 + 13
    except StoreError as error:
        print_problems(UserError(_refusal(error)))
        return 2
    except OSError as error:
        # Only one more character shows whether it was the output: what failed is no longer in the buffer.
        if code := _flush("\n"):
            return code
        if error.errno not in _DISK:
            raise
        place = str(error.filename or "storage")
        print_problems(UserError(Problem(place, f"{error.strerror}", "make room, then call it again")))
        return 2
    except ModuleNotFoundError as error:
        if error.name not in _NEEDED:
            raise
        message = f"needs {error.name}, which is not installed in this Python ({sys.executable})"
        print_problems(UserError(Problem(f"launch {arguments[0]}", message, "pip install mulaunch")))
        return 2
    except Exception as error:
        if not is_cloud_error(error):
            raise
        print_problems(UserError(_refusal(as_store_error(error, "storage"))))
        return 2


def _refusal(error: StoreError) -> Problem:
    remedy = "check the address, AWS_ENDPOINT_URL, and the credentials in AWS_ACCESS_KEY_ID and its kind"
    return Problem(str(error.filename), str(error.strerror), remedy)


def _flush(more: str = "") -> int:
    """Send the output off now: at Python's exit, a full disk would be a traceback. Returns the exit code."""
    if sys.stdout is None:  # it was closed: `launch schema >&-`
        return 0
    try:
        sys.stdout.write(more)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        print(f"launch: the output cannot be written: {error.strerror}", file=sys.stderr)
        _drop_output()
        return 1
    return 0


def _drop_output() -> None:
    """Send what is still to be written nowhere, so that flushing it at Python's exit does not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _reader_is_gone() -> bool:
    """Whether stdout has lost its reader, as in `launch plan RECIPE | head`. If so, the rest is dropped."""
    # BrokenPipeError alone does not show this: a socket to a server or a pipe to a child raises it too.
    asked = select.poll()
    asked.register(sys.stdout, 0)
    gone = any(event & select.POLLERR for _, event in asked.poll(0))
    if gone:
        _drop_output()
    return gone


def _dispatch(arguments: Sequence[str]) -> int:
    # A recipe is recognized by its looks, not by whether it exists: a mistyped file is reported as a missing
    # file, a mistyped verb as a verb.
    if arguments[:1] == ["help"] and arguments[1:2] and arguments[1] in VERBS:
        arguments = [arguments[1], "--help"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0 if arguments else 2
    first = arguments[0]
    if first in ("--version", "version"):
        from launcher.cli.version import version_line

        print(version_line())
        return 0
    if first in VERBS:
        return _find_verb(first)(arguments[1:])
    if first == "complete" and len(arguments) == 2:  # asked by the script of `launch completion`
        from launcher.cli.completion import print_candidates

        return print_candidates(arguments[1], VERBS, main)
    looks_like_file = "/" in first or first.endswith((".yaml", ".yml"))
    if not looks_like_file and not first.startswith("-") and not _is_shipped(first):
        from launcher.recipe.suggest import close_matches, did_you_mean

        hint = (
            did_you_mean(close_matches(first, VERBS))
            or f"verbs are {', '.join(VERBS)}; a recipe ends in .yaml"
        )
        raise UserError(Problem(f"launch {first}", "is neither a verb nor a recipe", hint))
    from launcher.cli.run import run_recipe

    return run_recipe(arguments)


def _is_shipped(name: str) -> bool:
    from launcher.shipped import shipped_recipes

    return name in shipped_recipes()


def print_problems(error: UserError) -> None:
    """On stderr, at most one screen of 20 lines."""
    print_lines(shown_lines(error.problems, colour=wants_colour(sys.stderr)))


def print_lines(lines: Sequence[str]) -> None:
    """On stderr, at most one screen of 20 lines. A closed terminal is not an error."""
    more = len(lines) - SCREEN + 1
    shown = list(lines) if more <= 1 else [*lines[: SCREEN - 1], f"launch: {more} more lines are not shown"]
    with contextlib.suppress(OSError):
        for line in shown:
            print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

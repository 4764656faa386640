"""What all commands share: arguments, one clear line for what goes wrong, batches. Standard library only."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import NoReturn, TypeVar

T = TypeVar("T")


class CliError(Exception):
    """A command cannot go on; the message is one line that says what is wrong and what to do."""


class Arguments(argparse.ArgumentParser):
    """A parser that says in one line what is wrong, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def stack_of(text: str) -> str:
    """Read the name of a stack."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a stack: give one, as in STACK=orders-dev")
    return text


def moment_of(text: str) -> datetime:
    """Read a moment, with or without a zone."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no moment, as 2026-11-22T10:00:00Z is one") from None


def run_command(name: str, command: Callable[[], int], failed: int = 1) -> int:
    """Run a command; return its exit code, `failed` if an error stops it.

    The error is one line on standard error, after `name`.
    """
    try:
        return command()
    except KeyboardInterrupt:
        print(f"{name}: interrupted; it can be run again", file=sys.stderr)
        return 130
    except CliError as error:
        line = one_line(error)
    except Exception as error:
        aws = sys.modules.get("scripts.aws")  # a command that calls AWS has imported it
        if not aws or not isinstance(error, aws.SDK_ERRORS):
            raise
        line = aws.explained(error)
    print(f"{name}: {line}", file=sys.stderr)
    return failed


def run_program(
    *command: str, cwd: Path, text: str = "", seconds: int = 1800, output: int | None = None, **environ: str
) -> str:
    """Run a program; `text` is its input. Return its output if it is a `PIPE`; else the program shows it.

    Raises CliError if it is missing, fails, or takes longer than `seconds`.
    """
    shown = f"{Path(command[0]).name} {command[1]}"
    environment = {**os.environ, **environ}
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=environment,
            timeout=seconds,
            text=True,
            input=text,
            stdout=output,
            check=True,
        )
    except FileNotFoundError:
        raise CliError(f"there is no `{command[0]}` command") from None
    except subprocess.TimeoutExpired:
        raise CliError(f"{shown} took longer than {seconds} s") from None
    except subprocess.CalledProcessError:
        raise CliError(f"{shown} failed; its output is above") from None
    return done.stdout or ""


def one_line(text: object) -> str:
    """Return a text, or an error's, without its line breaks."""
    return " ".join(str(text).split())


def say(text: str) -> None:
    """Print a line of progress at once, also into a pipe."""
    print(text, flush=True)


def ask(question: str) -> str | None:
    """Return what is typed; None at the end of the input."""
    try:
        return input(question).strip()
    except EOFError:
        return None


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield the items in sequence, at most `size` at a time."""
    return (items[start : start + size] for start in range(0, len(items), size))

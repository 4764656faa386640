"""Steps in sequence: what became of each, what it took, and the report. Knows no AWS."""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from scripts.cli import CliError, one_line

REMOVE = "make test-aws CLEAN=1"
_NOT_HERE = "Not shown on the emulator: "


class Result(StrEnum):
    """What became of a step."""

    PASSED = "passed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    SKIPPED = "skipped"
    NOT_REACHED = "not reached"


@dataclass(frozen=True)
class Step:
    """One function with what it needs. Its docstring says what it shows, and what only an account shows."""

    do: Callable[[Any], str]
    minutes: int  # on AWS, about
    needs: tuple[str, ...] = ()
    optional: bool = False
    removes: bool = False  # done at the end, whatever happened before

    @property
    def name(self) -> str:
        return self.do.__name__.replace("_", "-")

    @property
    def shows(self) -> str:
        return self._docstring()[0]

    @property
    def not_here(self) -> str:
        return self._docstring()[1]

    def _docstring(self) -> tuple[str, str]:
        shows, _, not_here = (inspect.getdoc(self.do) or "").partition(_NOT_HERE)
        return " ".join(shows.split()), " ".join(not_here.split())


@dataclass
class Outcome:
    """What became of a step, how long it took, and what there is to say about it."""

    result: Result
    seconds: float = 0.0
    note: str = ""


@dataclass
class State:
    """What a later run must know of this one. `facts` are what a step leaves for those after it."""

    path: Path
    where: str
    facts: dict[str, str] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    removing: bool = False  # it has begun to remove things: there is nothing to go on with

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        written = self.path.with_suffix(".new")
        written.write_text(json.dumps(asdict(self) | {"path": ""}, indent=2))
        written.replace(self.path)

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """Return what an unfinished run left, if one did."""
        if not path.exists():
            return None
        found = json.loads(path.read_text())
        outcomes = {
            name: Outcome(Result(each["result"]), each["seconds"], each["note"])
            for name, each in found["outcomes"].items()
        }
        return cls(path, found["where"], found["facts"], outcomes, found["removing"])


class Run:
    """One run. `context` is handed to each step; after `hours` no further step begins."""

    def __init__(
        self,
        steps: Sequence[Step],
        context: Any,
        state: State,
        *,
        keep: bool = False,
        skip: Iterable[str] = (),
        hours: float = 24.0,
        say: Callable[[str], None] = print,
    ) -> None:
        self._steps, self._context, self.state = steps, context, state
        self._keep, self._skip, self._seconds, self._say = keep, set(skip), hours * 3600, say

    def go(self) -> int:
        """Do the steps, then remove what they made; return the exit code."""
        if not self.state.removing:
            self._do_all([step for step in self._steps if not step.removes])
        outcomes = self.state.outcomes.values()
        if self._keep and any(each.result in (Result.FAILED, Result.INTERRUPTED) for each in outcomes):
            self._say(f"All of it is kept, and costs. `make test-aws` goes on; `{REMOVE}` removes it.")
        else:
            self._remove()
        return self._code()

    def clean(self) -> int:
        """Remove what an unfinished run has left, and no more; return the exit code."""
        self._remove()
        return self._code()

    def _code(self) -> int:
        results = {each.result for each in self.state.outcomes.values()}
        if Result.INTERRUPTED in results:
            return 130
        return 0 if results <= {Result.PASSED, Result.SKIPPED} else 1

    def _remove(self) -> None:
        """Do the steps that remove what was made; forget the run if they passed."""
        self.state.removing = True
        self.state.save()
        last = [step for step in self._steps if step.removes]
        for step in last:
            self._do(step)
            if self.state.outcomes[step.name].result is Result.INTERRUPTED:
                break
        if all(self._passed(step.name) for step in last):
            self.state.path.unlink()
        else:
            self._say(f"Something may be left, and cost. `{REMOVE}` removes it.")

    def _do_all(self, steps: Sequence[Step]) -> None:
        started, stopped = time.monotonic(), ""
        for step in steps:
            lacking = [name for name in step.needs if not self._passed(name)]
            if self._passed(step.name):
                self._say(f"{step.name}: passed before")
                continue
            if step.name in self._skip:
                self._note(step, Outcome(Result.SKIPPED))
            elif any(self._result(name) is Result.SKIPPED for name in lacking):
                self._note(step, Outcome(Result.SKIPPED, note=f"needs {', '.join(lacking)}"))
            elif stopped or lacking:
                self._note(step, Outcome(Result.NOT_REACHED, note=stopped or f"needs {', '.join(lacking)}"))
            elif time.monotonic() - started > self._seconds:
                hours = self._seconds / 3600
                self._note(step, Outcome(Result.NOT_REACHED, note=f"the run took {hours:g} hours"))
            else:
                result = self._do(step)
                if result is Result.INTERRUPTED or (result is Result.FAILED and self._keep):
                    stopped = f"stopped at {step.name}"

    def _do(self, step: Step) -> Result:
        self._say(f"\n== {step.name}: {step.shows}")
        started = time.monotonic()
        try:
            outcome = Outcome(Result.PASSED, note=step.do(self._context))
        except CliError as error:
            outcome = Outcome(Result.FAILED, note=str(error))
        except Exception as error:  # whatever it is, what was made costs, and is to be removed
            outcome = Outcome(Result.FAILED, note=one_line(f"{type(error).__name__}: {error}"))
        except KeyboardInterrupt:
            outcome = Outcome(Result.INTERRUPTED)
        outcome.seconds = time.monotonic() - started
        self._note(step, outcome)
        return outcome.result

    def _note(self, step: Step, outcome: Outcome) -> None:
        self.state.outcomes[step.name] = outcome
        self.state.save()
        self._say(f"== {step.name}: {outcome.result} after {outcome.seconds:.0f} s {outcome.note}".rstrip())

    def _passed(self, name: str) -> bool:
        return self._result(name) is Result.PASSED

    def _result(self, name: str) -> Result:
        return self.state.outcomes.get(name, Outcome(Result.NOT_REACHED)).result


def table(steps: Sequence[Step], outcomes: dict[str, Outcome]) -> str:
    """Return the result of each step, a line each."""
    lines = []
    for step in steps:
        outcome = outcomes.get(step.name, Outcome(Result.NOT_REACHED))
        lines.append(
            f"  {step.name:16} {outcome.result:12} {outcome.seconds:6.0f} s  {outcome.note}".rstrip()
        )
    return "\n".join(lines)


def report(steps: Sequence[Step], outcomes: dict[str, Outcome], *, where: str, when: str, local: bool) -> str:
    """Return the whole report in Markdown."""
    head = ["step", "result", "seconds", "what it shows", "noted"] + ["not shown here"] * local
    lines = [f"# make test-aws: {where}", "", when, ""]
    if local:
        lines += ["A local AWS emulator stands in for AWS. The last column says what it cannot show.", ""]
    lines += [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for step in steps:
        outcome = outcomes.get(step.name, Outcome(Result.NOT_REACHED))
        cells = [step.name, str(outcome.result), f"{outcome.seconds:.0f}", step.shows, outcome.note]
        cells += [step.not_here] * local
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines) + "\n"

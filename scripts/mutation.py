"""Change the code of src in one place at a time, and report the changes that no test notices.

Cosmic Ray makes the mutants (https://cosmic-ray.readthedocs.io). Its own runs draw no sample and run every
test for every mutant. Here each mutant of a sample meets the tests that run its line, as coverage saw them.

    make mutation-tests ARGS="--count 50 --seed 7 src/app/core/aws"
"""

import argparse
import ast
import contextlib
import difflib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names
from coverage import CoverageData

SUITES = ["tests/docs/test_generated.py", "tests/unit", "tests/api", "tests/contract"]  # the quickest first
REPORTS = Path("reports/mutation")
PYTEST = [".venv/bin/python", "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider"]
COVERAGE = ["--cov", "--cov-context=test", "--cov-report="]
NOT_COPIED = (".git", ".venv*", ".local*", ".aws-sam", ".*_cache", "__pycache__", "node_modules", "reports")
TRACED_SECONDS = 3600
# By pytest's exit status. What keeps a module (2) or a conftest.py (4) from being imported is noticed, too.
OUTCOMES = {0: "survived", 1: "killed", 2: "killed", 4: "killed"}
Tests = dict[str, dict[int, set[str]]]  # by file and line


class Mutant(NamedTuple):
    """One change in a file, and where it begins."""

    file: str
    line: int
    operator: str
    before: str
    after: str


def sample(files: list[str], count: int, seed: int) -> Iterator[Mutant]:
    """Draw places, and one mutant for each: a single comparison has seven."""
    places = defaultdict(list)
    operators = [each() for each in map(get_operator, operator_names()) if not each.arguments()]
    for file in files:
        nodes = list(ast_nodes(get_ast(Path(file).read_text())))
        for operator in operators:
            found = (start for node in nodes for start, _ in operator.mutation_positions(node))
            for occurrence, start in enumerate(found):
                places[file, start].append((operator, occurrence))
    draw = random.Random(seed)  # noqa: S311  # to be drawn again
    for file, start in draw.sample(sorted(places), len(places)):
        operator, occurrence = draw.choice(places[file, start])
        name, before = type(operator).__name__, Path(file).read_text()
        if not count or ("BitOr_" in name and "| None" in before.splitlines()[start[0] - 1]):
            continue  # a type, which is never evaluated
        # Cosmic Ray fails for an exception with a dot in its name, and takes the * of a signature for a sign.
        with contextlib.suppress(AttributeError, SyntaxError):
            after = mutate_code(before, operator, occurrence)
            ast.parse(after)
            yield Mutant(file, start[0], name, before, after)
            count -= 1


def tests_by_line(tree: Path) -> tuple[Tests, set[str]]:
    """Return which tests run each line, and which fail without any mutant.

    Run them all once for it, unless nothing has changed since.
    """
    data, output = (REPORTS / "coverage").resolve(), REPORTS / "traced.txt"
    newest = max(path.stat().st_mtime for top in ("src", "tests") for path in Path(top).rglob("*.py"))
    if not data.exists() or data.stat().st_mtime < newest:
        begun = time.time()
        print("Running all tests once, to see which of them run each line ...", flush=True)
        options = ["-rfE", f"--session-timeout={TRACED_SECONDS}", *COVERAGE, *SUITES]
        environ = os.environ | {"COVERAGE_FILE": str(data)}
        with output.open("w") as file:
            subprocess.run([*PYTEST, *options], cwd=tree, env=environ, stdout=file)
        if not data.exists():
            sys.exit(f"make mutation-tests: no test ran; {output} says why")
        os.utime(data, (begun, begun))  # a file that changed since then is newer
    failed = set(re.findall(r"(?m)^(?:FAILED|ERROR) ([^\s\[]+)", output.read_text()))
    for name in sorted(failed):
        print(f"Left out, as it fails without any mutant: {name}")
    read = CoverageData(str(data))
    read.read()
    tests = {
        file: {
            # A context is "file::test[case]|run"; it is empty for what ran on import.
            line: {name.partition("[")[0].partition("|")[0] for name in contexts} - failed
            for line, contexts in read.contexts_by_lineno(file).items()
        }
        for file in read.measured_files()
    }
    return tests, failed


def tests_of(mutant: Mutant, tests: Tests) -> set[str]:
    """Return the tests that run the line; for one that runs on import, all files with a test that runs any.

    A test that compares a constant runs nothing of the file that has it; the generated documents show many.
    Where no test runs anything of it in this process, it may be run in another one: all of them, then.
    """
    lines = tests.get(mutant.file, {})
    ran = lines.get(max((line for line in lines if line <= mutant.line), default=0), {""})
    if "" in ran:
        ran = {name.partition("::")[0] for names in lines.values() for name in names} - {""}
        ran |= {SUITES[0]} if ran else set(SUITES)
    return ran or set(SUITES)


def judge(mutant: Mutant, tests: list[str], tree: Path, seconds: float) -> str:
    """Run the tests on the mutant until one fails."""
    (tree / "tests.txt").write_text("\n".join(tests))
    (tree / mutant.file).write_text(mutant.after)
    environ = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}  # or one mutant is taken for the one before
    command = [*PYTEST, "-x", f"--session-timeout={seconds}", "@tests.txt"]
    done = subprocess.run(command, cwd=tree, env=environ, capture_output=True, text=True)
    (tree / mutant.file).write_text(mutant.before)
    return "out of time" if "session-timeout:" in done.stdout else OUTCOMES.get(done.returncode, "not judged")


def difference(mutant: Mutant) -> str:
    """Return the changed lines."""
    before, after = mutant.before.splitlines(), mutant.after.splitlines()
    return "\n".join(list(difflib.unified_diff(before, after, n=0, lineterm=""))[3:])


def main() -> None:
    """Judge a sample of mutants, and write the report."""
    parser = argparse.ArgumentParser(prog="make mutation-tests", description=__doc__.partition("\n")[0])
    parser.add_argument("paths", nargs="*", default=["src/app"], help="what to change (src/app)")
    parser.add_argument("--count", type=int, default=200, help="how many mutants (200)")
    parser.add_argument("--seed", type=int, default=1, help="draws the same mutants again (1)")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time (2)")
    parser.add_argument("--seconds", type=float, default=300, help="for the tests of one mutant (300)")
    asked = parser.parse_args()
    found = ([path] if path.is_file() else path.rglob("*.py") for path in map(Path, asked.paths))
    mutants = list(sample(sorted(str(file) for files in found for file in files), asked.count, asked.seed))
    if not mutants:
        sys.exit(f"make mutation-tests: no code to change in {' '.join(asked.paths)}")
    REPORTS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(asked.jobs) as threads:
        trees: SimpleQueue[Path] = SimpleQueue()
        for number in range(asked.jobs):
            tree = Path(temporary, str(number))
            shutil.copytree(".", tree, ignore=shutil.ignore_patterns(*NOT_COPIED))
            for environment in Path().glob(".venv*"):
                (tree / environment).symlink_to(environment.resolve())
            trees.put(tree)
        tests, failed = tests_by_line(tree)
        left_out = [f"--deselect={name}" for name in failed]  # where a whole file is run
        size = Counter(name for lines in tests.values() for names in lines.values() for name in names)
        for name, count in list(size.items()):
            size[name.partition("::")[0]] += count

        def cost(test: str) -> tuple[int, int]:
            return next(n for n, suite in enumerate(SUITES) if test.startswith(suite)), size[test]

        def run(mutant: Mutant) -> tuple[str, str]:
            tree, names = trees.get(), sorted(tests_of(mutant, tests), key=cost)
            outcome = judge(mutant, [*names, *left_out], tree, asked.seconds)
            trees.put(tree)
            heading = f"{outcome}: {mutant.file}:{mutant.line} {mutant.operator} ({len(names)} tests)"
            entry = heading if outcome == "killed" else f"{heading}\n{difference(mutant)}"
            print(entry, flush=True)
            return outcome, entry

        done = list(threads.map(run, mutants))
    counts = ", ".join(f"{count} {each}" for each, count in Counter(each for each, _ in done).most_common())
    summary = f"{len(mutants)} mutants of {' '.join(asked.paths)} (seed {asked.seed}): {counts}"
    report = [summary, *(entry for outcome, entry in done if outcome != "killed")]
    (REPORTS / "report.txt").write_text("\n\n".join(report) + "\n")
    print(f"{summary}. Those that were not killed: {REPORTS / 'report.txt'}")


if __name__ == "__main__":
    main()

"""What `make rename` changes, what it leaves alone, and when it rejects a name."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from scripts.rename import NAME, files_of, main, renamed
from scripts.templates import load_template

ROOT = Path(__file__).resolve().parents[2]
# Words that no project is renamed to: this file is renamed as well.
NEW = ("ibexes", "ibex")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("orders", "ibexes"),
        ("an order", "an ibex"),
        ("An order", "An ibex"),
        ("ORDERS_TABLE_NAME", "IBEXES_TABLE_NAME"),
        ("OrdersTable OrderPlaced", "IbexesTable IbexPlaced"),
        ("place_order list_orders", "place_ibex list_ibexes"),
        ("test_orders.py", "test_ibexes.py"),
        ("order#1 orders-by-shard", "ibex#1 ibexes-by-shard"),
        ("AnOrder, anOrder", "AnIbex, anIbex"),
        ("border recorder ordering OrderedDict reorder", "border recorder ordering OrderedDict reorder"),
        ("for x in order: [y for y in order]", "for x in ibex: [y for y in ibex]"),
        ("def f(order: Order) -> None: the order.", "def f(ibex: Ibex) -> None: the ibex."),
    ],
)
def test_words(text: str, expected: str) -> None:
    assert renamed(text, *NEW) == expected


def test_the_article_follows_the_sound() -> None:
    text = r"an order, An order, orders\nAn order"
    assert renamed(text, "zebus", "zebu") == r"a zebu, A zebu, zebus\nA zebu"


def test_a_name_is_one_that_the_bootstrap_takes() -> None:
    bootstrap = load_template((ROOT / "bootstrap" / "template.yaml").read_text())
    assert bootstrap["Parameters"]["Service"]["AllowedPattern"] == NAME.pattern


def test_the_word_has_one_meaning_here() -> None:
    """Whatever else it means would read badly after a rename: "in sequence" and "sorted by" say the same."""
    other = re.compile(
        r"\b(?:(?:out of|text|time|sort|alphabetical) order\b"
        r"|in (?:this|the same) order\b|in the order of (?:its|their)\b"
        r"|in order(?= to\b|[;,] | \(|\.(?:[\s\"]|$)))",
        re.IGNORECASE,
    )
    found = [
        f"{path}: {match[0]}"
        for path in files_of(ROOT)[0]
        if not path.startswith("requirements") and path != "tests/unit/test_rename.py"
        for match in other.finditer((ROOT / path).read_text(errors="ignore"))
    ]
    assert found == []


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small copy without a repository, with what a first run leaves behind."""
    for name, text in {
        ".gitignore": "__pycache__/\n.venv*\n",
        "LICENSE": "Copyright (c) The orders contributors\n",
        "README.md": "An order is placed. curl ... | tee order.json\n",
        "src/app/orders/models.py": "from app.core.events import Event\n\nclass OrderPlaced(Event): ...\n",
        "src/app/core/events.py": "class Event: ...\n",
        "src/app/orders/__pycache__/models.cpython-313.pyc": "",
        ".venv/lib/orders.py": "order = 1\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def git_commit(root: Path) -> None:
    me = ("-c", "user.name=test", "-c", "user.email=test@example.com")
    for command in (["add", "--all"], [*me, "commit", "-qm", "all"]):
        subprocess.run(["git", *command], cwd=root, check=True)


@pytest.fixture
def clone(copy: Path) -> Path:
    """The same as a repository, its files committed."""
    subprocess.run(["git", "init", "-q"], cwd=copy, check=True)
    git_commit(copy)
    return copy


@pytest.fixture
def part(clone: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same as a folder of a larger repository."""
    (clone / "part").mkdir()
    for name in ("README.md", "LICENSE", "src", ".gitignore", ".venv"):
        (clone / name).rename(clone / "part" / name)
    git_commit(clone)
    monkeypatch.chdir(clone / "part")
    return clone / "part"


@pytest.mark.parametrize("kind", ["copy", "clone", "part"])
def test_all_of_a_project_is_renamed(kind: str, request: pytest.FixtureRequest) -> None:
    root: Path = request.getfixturevalue(kind)
    main([*NEW])
    assert (root / "README.md").read_text() == "An ibex is placed. curl ... | tee ibex.json\n"
    assert "class IbexPlaced(Event)" in (root / "src/app/ibexes/models.py").read_text()
    assert not (root / "src/app/orders").exists()
    assert "orders" in (root / "LICENSE").read_text()
    assert (root / ".venv/lib/orders.py").read_text() == "order = 1\n"


def test_a_file_that_git_does_not_track_is_left_alone_and_told(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (clone / "order.json").write_text('{"order": 1}')
    main([*NEW])
    assert (clone / "order.json").read_text() == '{"order": 1}'
    assert "order.json" in capsys.readouterr().out


def test_a_reset_undoes_it(clone: Path) -> None:
    (clone / "order.json").touch()
    main([*NEW])
    subprocess.run(["git", "reset", "-q", "--hard"], cwd=clone, check=True)
    assert not (clone / "src/app/ibexes").exists()
    status = subprocess.run(["git", "status", "--porcelain"], cwd=clone, capture_output=True, check=True)
    assert status.stdout == b"?? order.json\n"


@pytest.mark.parametrize(
    "arguments",
    [
        *(["Ibexes", "ibex"], ["ib-exes", "ibex"], ["same", "same"], ["i" * 17, "ibex"], ["", ""]),
        *(["events", "event"], ["class", "ibex"]),  # in use in the sources
    ],
)
def test_a_bad_name_gets_one_line_and_changes_nothing(arguments: list[str], clone: Path) -> None:
    _rejected(arguments, clone)


def test_changes_that_could_not_be_undone_are_rejected(clone: Path) -> None:
    (clone / "README.md").write_text("An order.\n")
    assert "commit or stash" in _rejected([*NEW], clone)


def test_without_git_one_line_says_so(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert "git" in _rejected([*NEW], copy)


def test_a_repository_that_git_cannot_read_is_not_renamed(clone: Path) -> None:
    (clone / ".git/config").write_text("[core\n")
    assert "git: fatal" in _rejected([*NEW], clone)


def _rejected(arguments: list[str], root: Path) -> str:
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    message = str(stopped.value)
    assert message.startswith("make rename: ")
    assert "\n" not in message
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    return message

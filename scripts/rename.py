"""`make rename NAME=invoices ENTITY=invoice`: turn a copy of this repository into a project of your own.

Replace both words in every spelling (orders, Orders, ORDERS_, "an order"), in files and in their paths.
Rename what git tracks; without a repository, all that `.gitignore` does not name.
`git reset --hard` undoes it.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import subprocess
import sys
import tempfile
import tokenize
from pathlib import Path
from typing import NoReturn

PLURAL, SINGULAR = "orders", "order"  # renamed like all else, so that a copy can be renamed again
NAME = re.compile(r"[a-z][a-z0-9]{1,15}")  # as bootstrap/ takes a service's; tests/unit compares
# Not within border, recorder or OrderedDict. The plural first: it begins with the singular.
_WORD = re.compile(
    r"(?P<article>(?:\b|(?<=\\n))[Aa]n? )?(?P<word>"  # after \n, too, as JSON spells a line break
    + "|".join(
        rf"(?<![a-z]){old}(?![a-z])|{old.capitalize()}(?![a-z])|(?<![A-Z]){old.upper()}(?![A-Z])"
        for old in (PLURAL, SINGULAR)
    )
    + ")"
)
# The licence names its authors; an environment is made again when its requirements change.
_KEPT = ("LICENSE", "requirements")
_SPELLINGS = (str.lower, str.capitalize, str.upper)


def renamed(text: str, name: str, entity: str) -> str:
    """Return `text` with the plural become `name` and the singular `entity`, case and article kept right."""
    new = {spell(old): spell(to) for old, to in ((PLURAL, name), (SINGULAR, entity)) for spell in _SPELLINGS}

    def replace(found: re.Match[str]) -> str:
        word, article = new[found["word"]], found["article"]
        if article:
            article = article[0] + ("n " if word[0] in "aeiouAEIOU" else " ")
        return (article or "") + word

    return _WORD.sub(replace, text)


def git(root: Path, *arguments: str, check: bool = True) -> list[str]:
    """Run git in `root`; return what it says between NUL bytes."""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    if check and done.returncode:
        fail(f"git: {' '.join(done.stderr.split())}")
    return [part for part in done.stdout.split("\0") if part]


def files_of(root: Path) -> tuple[list[str], bool]:
    """Return the paths of the project, and whether git tracks them."""
    if tracked := git(root, "ls-files", "-z", check=(root / ".git").exists()):
        return tracked, True
    with tempfile.TemporaryDirectory() as empty:
        git(root, "init", "--quiet", empty)
        repository = (f"--git-dir={empty}/.git", f"--work-tree={root}")
        return git(root, *repository, "ls-files", "-z", "--others", "--exclude-standard"), False


def rename_files(root: Path, paths: list[str], name: str, entity: str) -> list[str]:
    """Rename in these files and in their paths; return the new paths of those that changed."""
    changed, left = [], set()
    for relative in paths:
        path, target = root / relative, root / renamed(relative, name, entity)
        if path.is_symlink() or not path.is_file() or relative.startswith(_KEPT):
            continue
        raw = path.read_bytes()
        try:
            new = renamed(raw.decode(), name, entity).encode()
        except UnicodeDecodeError:  # a picture
            new = raw
        if new == raw and target == path:
            continue
        if target != path:
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
            left.add(path.parent)
        target.write_bytes(new)
        changed.append(str(target.relative_to(root)))
    for folder in left:  # a folder of nothing but compiled files would pass for a package
        if all(path.is_dir() or path.suffix == ".pyc" for path in folder.rglob("*")):
            shutil.rmtree(folder, ignore_errors=True)
    return changed


def reject_words(root: Path, paths: list[str], name: str, entity: str) -> None:
    """Exit if a word cannot be a name, or means something in the sources already."""
    for word in (name, entity):
        if not NAME.fullmatch(word):
            fail(f"{word!r} must be two to sixteen lower-case letters or digits, a letter first")
    if name == entity:
        fail("NAME (the plural) and ENTITY must differ")
    sources = [root / path for path in paths if path.startswith("src/") and path.endswith(".py")]
    if taken := {name, entity} & names_in(sources):
        fail(f"{min(taken)!r} names something else in src: choose another word")


def names_in(sources: list[Path]) -> set[str]:
    """Return the words in identifiers and keys: create_item, Item and "items" hold item and items."""
    words = set()
    for path in sources:
        for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
            if token.type == tokenize.NAME or re.fullmatch(r"[\"']\w+[\"']", token.string):
                words.update(re.findall(r"[A-Z]?[a-z0-9]+|[A-Z0-9]+", token.string))
    return {word.lower() for word in words}


def fail(problem: str) -> NoReturn:
    """Exit with one line on standard error."""
    sys.exit(f"make rename: {problem}")


def main(argv: list[str]) -> None:
    """Rename the project in the current folder, format it, and say what comes next."""
    parser = argparse.ArgumentParser(prog="make rename", description=__doc__)
    parser.add_argument("name", help="the service and the plural of its entity, for example invoices")
    parser.add_argument("entity", help="the entity, for example invoice")
    asked = parser.parse_args(argv)
    if not shutil.which("git"):
        fail("git is missing: install it")
    root = Path.cwd()
    paths, tracked = files_of(root)
    reject_words(root, paths, asked.name, asked.entity)
    if tracked and git(root, "status", "--porcelain", "-z", "--untracked-files=no"):
        fail("commit or stash your changes first, so that this can be undone")
    untracked = git(root, "ls-files", "-z", "--others", "--exclude-standard") if tracked else []
    changed = rename_files(root, paths, asked.name, asked.entity)
    # Names of another length move the ends of lines, and another first letter moves imports.
    # What the formatter cannot break, a sentence say, may stay too long.
    ruff = str(Path(sys.executable).parent / "ruff")
    for command in ("check --fix-only", "format", "check --select=E501 --add-noqa", "check --fix-only"):
        subprocess.run([ruff, *command.split(), "--quiet", "."], check=True)
    if tracked:  # so that `git reset --hard` takes the new paths away, and no file that is yours
        git(root, "add", "--update", ".")
        git(root, "add", "--", *changed)
    if untracked:
        print(f"Left alone, since git does not track them: {', '.join(untracked)}")
    following = "git diff --cached" if tracked else "git init && git add . && git commit"
    print(f"Renamed {len(changed)} files. Next: {following}, then make check test.")


if __name__ == "__main__":
    main(sys.argv[1:])

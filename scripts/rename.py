"""`make rename NAME=invoices ENTITY=invoice`: turn a clone into a project of your own.

Replaces orders/order in every spelling (orders, Orders, ORDERS_, orders-dev, an order ...) in all
tracked text files and in their paths, then lets the formatter put imports and lines right.
Run it on a clean clone; undo it with `git reset --hard && git clean -fd`.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

# English that is not about the entity.
_KEEP = re.compile(
    r"\b(?:(?:out of|text|time|sort|reading|tab|any) order\b|in order(?= to\b|;|,| \(|\.(?=[\s\"]|$)))",
    re.IGNORECASE,
)
# `order` as a word or a part of a name, with its article; not within border, recorder or OrderedDict.
_WORD = re.compile(
    r"(?P<article>\b[Aa]n )?"
    r"(?:(?<![a-z])(?P<lower>order)(?P<s1>s?)(?![a-z])"
    r"|(?P<title>Order)(?P<s2>s?)(?![a-z])"
    r"|(?<![A-Z])(?P<upper>ORDER)(?P<s3>S?)(?![A-Z]))"
)
NAME = re.compile(r"[a-z][a-z0-9]{1,15}")  # as bootstrap/ takes a service's; tests/unit compares


def renamed(text: str, name: str, entity: str) -> str:
    """Return `text` with the plural become `name` and the singular `entity`, case kept."""
    kept: list[str] = []

    def keep(found: re.Match[str]) -> str:
        kept.append(found[0])
        return f"\0{len(kept) - 1}\0"

    def replace(found: re.Match[str]) -> str:
        new = name if found["s1"] or found["s2"] or found["s3"] else entity
        cased = new if found["lower"] else new.capitalize() if found["title"] else new.upper()
        article = found["article"] or ""
        if article and new[0] not in "aeiou":
            article = article[0] + " "
        return article + cased

    text = _WORD.sub(replace, _KEEP.sub(keep, text))
    return re.sub("\0(\\d+)\0", lambda found: kept[int(found[1])], text)


def rename_tree(root: Path, name: str, entity: str) -> int:
    """Rename in every tracked file below `root`; return how many files changed."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True).stdout
    changed = 0
    for relative in filter(None, listed.decode().split("\0")):
        path = root / relative
        if path.is_symlink() or relative in ("LICENSE", "scripts/rename.py", "tests/unit/test_rename.py"):
            continue
        target = root / renamed(relative, name, entity)
        raw = path.read_bytes()
        try:
            new = raw if relative.startswith("requirements") else renamed(raw.decode(), name, entity).encode()
        except UnicodeDecodeError:  # a picture
            new = raw
        if new == raw and target == path:
            continue
        changed += 1
        target.parent.mkdir(parents=True, exist_ok=True)
        if target != path:
            path.rename(target)
        target.write_bytes(new)
    for folder in sorted((root / "src" / "orders").glob("**/"), reverse=True):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    return changed


def main(argv: list[str]) -> int:
    """Rename this clone."""
    parser = argparse.ArgumentParser(prog="make rename", description=__doc__)
    parser.add_argument("name", help="the service and the plural of its entity, for example invoices")
    parser.add_argument("entity", help="the entity, for example invoice")
    asked = parser.parse_args(argv)
    root = Path.cwd()
    for word in (asked.name, asked.entity):
        if not NAME.fullmatch(word):
            print(
                f"make rename: {word!r} must be two to sixteen lower-case letters or digits, a letter first",
                file=sys.stderr,
            )
            return 2
    if asked.name == asked.entity:
        print("make rename: NAME (the plural) and ENTITY must differ", file=sys.stderr)
        return 2
    if subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, check=True).stdout:
        print("make rename: commit or stash your changes first, so that this can be undone", file=sys.stderr)
        return 1
    changed = rename_tree(root, asked.name, asked.entity)
    # Names of another length move the ends of lines, and another first letter the order of imports. What the
    # formatter cannot break, a sentence say, may stay too long.
    ruff = [".venv/bin/ruff", "check", "--quiet"]
    subprocess.run([*ruff, "--fix-only", "."], cwd=root, check=True)
    subprocess.run([".venv/bin/ruff", "format", "--quiet", "."], cwd=root, check=True)
    subprocess.run([*ruff, "--select", "E501", "--add-noqa", "."], cwd=root, check=False)
    print(f"Renamed {changed} files. Next: git diff, then make check test.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

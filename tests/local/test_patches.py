"""Each patch of the local AWS emulator says why it is there."""

from __future__ import annotations

import ast
import re

from localcloud.running import ROOT

# AWS's documentation, what the emulator does instead, and the report: a link or plainly none.
_REASON = re.compile(
    r"AWS does: .* https://docs\.aws\.amazon\.com/\S+\n"
    r"\s*The emulator does: [^:]+\n"
    r"\s*Reported as: (https://github\.com/ministackorg/ministack/(issues|pull)/\d+|not reported)\b"
)


def _unexplained(source: str) -> list[str]:
    """Name the patches in a module's source whose docstring lacks one of the three lines."""
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    patches = [node for node in functions if "patch" in map(ast.unparse, node.decorator_list)]
    return [node.name for node in patches if not _REASON.match(ast.get_docstring(node) or "")]


def test_every_patch_says_what_aws_does_what_the_emulator_does_and_where_it_is_reported() -> None:
    modules = sorted((ROOT / "localcloud" / "patches").glob("*.py"))
    assert {path.name: _unexplained(path.read_text()) for path in modules} == {
        path.name: [] for path in modules
    }


def test_a_new_patch_without_the_three_lines_is_found() -> None:
    assert _unexplained('@patch\ndef new() -> None:\n    """Fix it."""') == ["new"]

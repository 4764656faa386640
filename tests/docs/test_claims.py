"""Whatever the documentation names exists: targets, files, parameters, outputs, variables, links, tests."""

from __future__ import annotations

import re
import shlex
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cfnlint.decode import decode

from app.core.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / ".github").rglob("*.md")]
    if page.name != "CHANGELOG.md"
)
TRACKED = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
    cwd=ROOT,
    capture_output=True,
    check=True,
    text=True,
).stdout.splitlines()
# The words of the code, without `bench/`, which speaks of others' too.
# (After `make rename` git still lists the old paths.)
CODE = {
    word
    for path in map(ROOT.joinpath, TRACKED)
    if path.suffix in {".py", ".yaml", ".yml", ".js"} and ROOT / "bench" not in path.parents and path.exists()
    for word in re.findall(r"\w+", path.read_text())
}
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))
TEMPLATES = {*ROOT.glob("*.yaml"), *ROOT.glob("[a-z]*/*.yaml")}

# Words with two humps, as a parameter has them, that are other people's.
OF_OTHERS = {
    *(
        "AccessDenied",
        "AllViewerExceptHostHeader",
        "BackgroundTasks",
        "CloudFront",
        "GitHub",
        "LastProcessingResult",
    ),
    *("CreationDate", "OutputKey", "RandomPassword", "RecoveryPointArn", "RecoveryPoints", "SecretString"),
    "VersionId",
    "B99A9384",  # the code of a quota
}
# Where commands put what is kept by no commit, and a prefix in the bucket of artifacts.
MADE_BY_COMMANDS = (".local/", "reports/", "previews/")

_FENCED = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
# What a page adds to the project is not there yet; tests run it (tests/contract/test_sdk_client.py).
_ADDED = {"python", "yaml"}


@cache
def code(page: Path) -> list[str]:
    """Return what a page sets as code: lines of blocks, and spans in a sentence.

    Without code to be added: that is run by `test_adding_a_feature.py`.
    """
    text = re.sub(r"^```(?:diff|python)\n.*?^```\n", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    rest = _FENCED.sub("", text)
    fenced = [block for language, block in _FENCED.findall(text) if language not in _ADDED]
    blocks = [*fenced, *re.findall(r"^ {4}(\S.*)$", rest, re.MULTILINE)]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return lines + re.findall(r"(?<!`)`([^`\n]+)`(?!`)", rest)


def make_commands(page: Path) -> list[list[str]]:
    """Return the words after each `make` that a page shows."""
    found = [
        command
        for line in code(page)
        for command in re.findall(r"(?:^|&& *|; *)make +([^&;]*)", line.strip())
    ]
    # A block explains a command after two spaces or a hash.
    return [shlex.split(re.split(r"  +|#", command)[0]) for command in found]


@cache
def named(section: str) -> set[str]:
    """Return the keys of a section over all templates."""
    return {key for path in TEMPLATES for key in (decode(str(path))[0].get(section) or {})}


@cache
def known_words() -> set[str]:
    """Return every key and one-word value of the templates, and every word of the application."""
    sources = [path.read_text() for path in ROOT.glob("src/app/**/*.py")]
    words = set(re.findall(r"\w+", "\n".join(sources)))

    def walk(value: Any) -> None:
        match value:
            case dict():
                words.update(value)
                walk(list(value.values()))
            case list():
                for each in value:
                    walk(each)
            case str() if re.fullmatch(r"\w+", value):
                words.add(value)

    for path in TEMPLATES:
        walk(decode(str(path))[0])
    return words


@cache
def variables() -> set[str]:
    """Return every word in capitals that a command, a workflow or a program knows."""
    places = ("Makefile", ".github/workflows", "bench", "bootstrap", "load", "localcloud", "scripts", "src")
    places += ("tests/delivery",)  # which writes two pages
    files = [name for name in TRACKED if name.startswith(places) and not name.endswith(".md")]
    texts = [(ROOT / name).read_text() for name in files if (ROOT / name).is_file()]
    return set(re.findall(r"\b[A-Z][A-Z0-9_]+\b", "\n".join(texts)))


def exists(name: str, page: Path) -> bool:
    """Tell whether a path is there: from the root, from the page, or in the application's package."""
    return any(any(base.glob(name.rstrip("/"))) for base in (ROOT, page.parent, ROOT / "src/app"))


def identify(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=identify)
class TestPage:
    def test_every_make_target_and_its_variables_exist(self, page: Path) -> None:
        for command in make_commands(page):
            for word in command:
                name, given, _ = word.partition("=")
                assert re.search(rf"\b{name}\b", MAKEFILE) if given else name in TARGETS, word

    def test_every_link_leads_somewhere(self, page: Path) -> None:
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
            if not re.match(r"[a-z]+:", link):
                assert (page.parent / link).exists(), link

    def test_every_link_to_a_section_finds_it(self, page: Path) -> None:
        for link, anchor in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", page.read_text()):
            if re.match(r"[a-z]+:", link):
                continue
            target = page.parent / link if link else page
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{link}#{anchor}"

    def test_every_file_exists(self, page: Path) -> None:
        kinds = "html|js|json|md|py|svg|toml|txt|yaml|yml"
        for text in code(page):
            whole = re.fullmatch(r"[\w.*-]+(?:/[\w.*-]+)+/?|[\w.-]+/", text)
            within = re.findall(rf"(?<![\w/$<>.:-])[\w.-]+(?:/[\w.-]+)+\.(?:{kinds})\b", text)
            for name in {whole[0], *within} if whole else within:
                assert name.startswith(MADE_BY_COMMANDS) or exists(name, page), name
            if re.fullmatch(rf"[\w-]+\.(?:{kinds})", text):
                assert any(each.rpartition("/")[2] == text for each in TRACKED), text

    def test_every_name_with_an_underscore_is_in_the_code(self, page: Path) -> None:
        assert set(re.findall(r"`(\w*_\w+)(?:\(\))?`", page.read_text())) <= CODE

    def test_every_variable_exists(self, page: Path) -> None:
        settings = {"APP_SETTINGS", *(f"APP_{name.upper()}" for name in Settings.__struct_fields__)}
        for text in code(page):
            for name in re.findall(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b", text):
                assert name in (settings if name.startswith("APP_") else variables()), name

    def test_every_parameter_that_is_set_exists(self, page: Path) -> None:
        # In capitals it is make's or a shell's: `RUNTIME=fargate`.
        for text in code(page):
            for name in re.findall(r"(?<![\w.-])([A-Z][A-Za-z]*[a-z][A-Za-z]*)=(?!=)", text):
                assert name in named("Parameters"), name

    def test_every_name_with_two_humps_exists(self, page: Path) -> None:
        for text in code(page):
            for name in re.findall(r"(?<![\w:.'\"])[A-Z][a-z0-9]+(?:[A-Z][a-z0-9]*)+\b(?!::)", text):
                assert name in known_words() | OF_OTHERS, name

    def test_what_is_called_an_output_or_a_parameter_is_one(self, page: Path) -> None:
        for kind, section in (("output", "Outputs"), ("parameter", "Parameters")):
            found = re.findall(rf"(?i:{kind})s? `(\w+)(?:=[^`]*)?`", page.read_text())
            assert set(found) <= named(section)


def test_every_test_that_a_page_names_exists() -> None:
    for page in PAGES:
        for path, test in re.findall(r"(tests/[\w/]+\.py)::(\w+)", page.read_text()):
            assert f"def {test}(" in (ROOT / path).read_text() or f"class {test}" in (ROOT / path).read_text()


def test_every_section_of_the_readme_that_claims_something_leads_to_a_test() -> None:
    introduction, *sections = (ROOT / "README.md").read_text().split("\n## ")
    claims_nothing = ("Where things are", "Licence")
    for section in [introduction, *(each for each in sections if not each.startswith(claims_nothing))]:
        assert re.search(r"\]\(tests/[\w/]+\.py\)", section), section.partition("\n")[0]


def test_every_promise_of_the_threat_model_leads_to_a_test() -> None:
    """Or to a table that a test writes."""
    page = (ROOT / "SECURITY.md").read_text()
    rows = [
        line.split(" | ") for line in page.splitlines() if line.startswith("| ") and line.count(" | ") == 2
    ]
    assert len(rows) > 15
    for threat, _, shown in rows[2:]:
        written_by_tests = r"docs/delivery-boundaries\.md"
        assert re.search(rf"\]\((tests/[\w/]+\.py|{written_by_tests})\)", shown), threat


def test_every_decision_has_its_number_status_and_date() -> None:
    for number, path in enumerate(sorted((ROOT / "docs/decisions").glob("*.md")), 1):
        wanted = rf"# {number}\. \S.*\n\nStatus: \w+\. Date: \d{{4}}-\d\d-\d\d\.\n\n"
        assert path.name.startswith(f"{number:04}-"), path.name
        assert re.match(wanted, path.read_text()), path.name


@pytest.mark.parametrize(
    ("check", "text"),
    [
        ("test_every_make_target_and_its_variables_exist", "`make check nosuch`"),
        ("test_every_make_target_and_its_variables_exist", "    make test && make nosuch"),
        ("test_every_make_target_and_its_variables_exist", "`make deploy NO_SUCH=1`"),
        ("test_every_link_leads_somewhere", "[x](tests/nosuch.py)"),
        ("test_every_link_to_a_section_finds_it", "[x](#nosuch)"),
        ("test_every_file_exists", "`nosuchdir/file.py`"),
        ("test_every_file_exists", "`nosuch.py`"),
        ("test_every_file_exists", "```sh\nsam local invoke -e events/nosuch.json\n```"),
        ("test_every_variable_exists", "`AWS_NOSUCH_ROLE`"),
        ("test_every_variable_exists", "    APP_NO_SUCH=1 python"),
        ("test_every_parameter_that_is_set_exists", "```sh\nsam deploy NoSuchParameter=1\n```"),
        ("test_every_parameter_that_is_set_exists", "`Nosuch=lambda`"),
        ("test_every_name_with_two_humps_exists", "`NoSuchParameter`"),
        ("test_what_is_called_an_output_or_a_parameter_is_one", "its output `Runtimes`"),
        ("test_what_is_called_an_output_or_a_parameter_is_one", "the parameter `ApiUrl`"),
    ],
)
def test_what_does_not_exist_is_noticed(check: str, text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text + "\n")
    with pytest.raises(AssertionError):
        getattr(TestPage(), check)(page)

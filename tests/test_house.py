"""The house rules that no linter has."""

import ast
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    file for package in ("api", "service", "workers", "tests", "deploy") for file in (ROOT / package).rglob("*.py")
)
MODULES = [file for file in SOURCES if file.relative_to(ROOT).parts[0] in ("api", "service", "workers")]
LONGEST_LINES = 400
NOT_NAMES = {"manager", "helper", "helpers", "util", "utils", "common", "process", "data", "info"}
HEAVY = {"torch", "ray", "transformers", "peft", "datasets", "lm_eval"}


def named(files: Iterable[Path]) -> list[str]:
    return [str(file.relative_to(ROOT)) for file in files]


def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def test_no_module_is_too_long_to_read():
    assert named(file for file in SOURCES if len(file.read_text("utf-8").splitlines()) > LONGEST_LINES) == []


def test_a_sentence_opens_each_module():
    def opens(file: Path) -> bool:
        first = (ast.get_docstring(parsed(file)) or "").split("\n\n")[0].rstrip()
        return first.endswith((".", ":", "?", ")"))

    assert named(file for file in SOURCES if file.stat().st_size and not opens(file)) == []


def test_names_say_something():
    def says_nothing(file: Path) -> bool:
        classes = {node.name.lower() for node in ast.walk(parsed(file)) if isinstance(node, ast.ClassDef)}
        return bool(NOT_NAMES & (classes | {file.stem.lower()}))

    assert named(file for file in MODULES if says_nothing(file)) == []


@pytest.mark.parametrize("package", ["api", "service", "workers"])
def test_each_package_gives_its_reasons(package: str):
    decisions = ROOT / package / "DECISIONS.md"
    assert decisions.is_file(), "write down what a reader would wonder about"
    assert decisions.read_text(encoding="utf-8").strip()


@pytest.mark.parametrize("module", ["api.app", "api.cli", "api.client", "workers.contracts.recipe"])
def test_nothing_heavy_is_imported_along(module: str):
    """In a fresh interpreter, because this one has imported everything long since."""
    code = f"import sys, {module}; print(*sorted(set(sys.modules) & {HEAVY!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


@pytest.mark.parametrize("name", ["constraints.txt", "pyproject.toml", "Makefile", ".ci/run"])
def test_no_registry_or_workplace_is_named(name: str):
    """Whoever installs this chooses the registry; a path of one machine is none on another."""
    text = (ROOT / name).read_text(encoding="utf-8")
    for forbidden in ("--index-url", "--find-links", "http://", "file://", "/home/", "+cpu"):
        assert forbidden not in text


def test_the_constraints_leave_torch_to_its_platform():
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    names = {line.partition("==")[0] for line in pins if "==" in line}
    assert not {name for name in names if name in ("torch", "triton") or name.startswith(("nvidia-", "cuda-"))}
    assert {"transformers", "ray", "fastapi", "pytest"} <= names

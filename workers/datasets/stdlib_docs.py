"""Python's own documentation: the docstrings and help topics of the running interpreter's standard library."""

import ast
import inspect
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from workers.contracts.places import Places
from workers.datasets.dataset import Documents, Part, distinct, is_held_out

_NOT_READ = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})
_TOPICS = "pydoc_data.topics"


def load(part: Part, places: Places, path: str | None = None) -> Documents:
    """One document a module: its docstrings in order, blank lines between. Needs neither network nor files.

    A tenth of the modules, by the digest of their names, is kept for evaluation; a docstring that stands there too is
    left out of training. Files that this interpreter cannot parse are passed over.
    """
    modules = _docstrings(Path(sysconfig.get_paths()["stdlib"]))
    seen: set[str] = set()
    evaluation = _documents({name: texts for name, texts in modules.items() if is_held_out(name)}, seen)
    if part == "evaluation":
        return Documents(evaluation, separator="\n\n")
    return Documents(
        _documents({name: texts for name, texts in modules.items() if not is_held_out(name)}, seen), separator="\n\n"
    )


def _documents(modules: dict[str, tuple[str, ...]], seen: set[str]) -> tuple[str, ...]:
    """The modules' documents less the docstrings seen before, which the standard library repeats a good deal."""
    documents = []
    for texts in modules.values():
        fresh = [text for text in texts if text not in seen]
        seen.update(fresh)
        documents.append("\n\n".join(fresh))
    return tuple(document for document in documents if document)


@cache
def _docstrings(root: Path) -> dict[str, tuple[str, ...]]:
    """Docstrings by module, both in order of name."""
    found = {}
    for file in sorted(root.rglob("*.py")):
        place = file.relative_to(root)
        if _NOT_READ.isdisjoint(place.parts):
            name = ".".join(place.with_suffix("").parts)
            found[name] = tuple(_prose(name, file))
    return {name: texts for name, texts in found.items() if texts}


def _prose(name: str, file: Path) -> list[str]:
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return []
    if name == _TOPICS:
        # Topics contain each other: every paragraph once.
        return distinct(paragraph for topic in _topics(tree) for paragraph in topic.split("\n\n") if paragraph.strip())
    return distinct(text for text in _docstrings_of(tree) if text.strip())


def _docstrings_of(tree: ast.Module) -> Iterator[str]:
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    nodes = [node for node in ast.walk(tree) if isinstance(node, documented)]
    for node in sorted(nodes, key=lambda node: getattr(node, "lineno", 0)):  # a module has none: it comes first
        yield ast.get_docstring(node) or ""


def _topics(tree: ast.Module) -> Iterator[str]:
    """The values of the one dictionary in `pydoc_data.topics`, read without running it."""
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict):
            yield from (inspect.cleandoc(text) for text in ast.literal_eval(node.value).values())

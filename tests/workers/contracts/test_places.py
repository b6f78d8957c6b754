"""Places: what recipes may point at, and what leads out of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers.contracts.places import Places
from workers.errors import RecipeError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with the checkpoint folder `model` and the file `text.txt`; beside it a secret."""
    folder = tmp_path / "root" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    (tmp_path / "root" / "text.txt").write_text("text")
    (tmp_path / "secret").write_text("secret")
    return tmp_path / "root"


@pytest.fixture
def places(root: Path) -> Places:
    return Places(model_roots=[str(root)], data_roots=[str(root)])


def test_a_folder_under_a_root_is_found(places: Places, root: Path) -> None:
    assert places.model_folder(str(root / "model")) == root / "model"
    assert places.text_file(str(root / "text.txt")) == root / "text.txt"


@pytest.mark.parametrize("source", ["owner/name", "name"])
def test_a_hub_id_is_no_path(places: Places, source: str) -> None:
    assert places.model_folder(source) is None


NOWHERE = ["/", "{root}/../secret", "~nobody-of-this-name/x", "/" + "x" * 300, "./\0", "{root}/none"]


@pytest.mark.parametrize("source", NOWHERE, ids=range(len(NOWHERE)))
def test_what_is_elsewhere_or_no_path_is_refused(places: Places, root: Path, source: str) -> None:
    with pytest.raises(RecipeError) as refused:
        places.model_folder(source.format(root=root))
    assert refused.value.field == "model.source"
    with pytest.raises(RecipeError):
        places.text_file(source.format(root=root))


@pytest.mark.parametrize("name", ["tokenizer.json", "model-2.safetensors"])
def test_a_link_inside_the_folder_does_not_lead_out(places: Places, root: Path, name: str) -> None:
    (root / "model" / name).symlink_to(root.parent / "secret")
    with pytest.raises(RecipeError, match="outside the allowed folders"):
        places.model_folder(str(root / "model"))


def test_a_folder_has_no_revisions(places: Places, root: Path) -> None:
    with pytest.raises(RecipeError, match="model.revision"):
        places.model_folder(str(root / "model"), "main")


def test_without_roots_nothing_is_confined(root: Path) -> None:
    assert Places().model_folder(str(root / "model")) == root / "model"

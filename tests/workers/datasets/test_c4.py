"""C4: whole pages, a tenth of local ones held out."""

import json

import pytest

from workers.datasets import c4, dataset
from workers.errors import RecipeError


def test_a_tenth_of_the_local_pages_is_held_out(write, places, no_hub):
    pages = [f"Page number {index}.\nSecond line." for index in range(300)]
    write("c4/demo.jsonl", "\n".join(json.dumps({"text": page}) for page in [*pages, pages[0]]))
    train, evaluation = c4.load("train", places), c4.load("evaluation", places)
    assert sorted(train.documents + evaluation.documents) == sorted(pages)
    assert 10 < len(evaluation.documents) < 60
    assert train.separator == "\n\n"


def test_the_hub_is_asked_for_one_shard_each(places, hub):
    asked = hub({"text": "A page.", "url": "x"}, {"text": " ", "url": "y"})
    assert c4.load("train", places).documents == ("A page.",)
    assert c4.load("evaluation", places).documents == ("A page.",)
    assert [(table.file, split) for table, split in asked] == [
        ("en/c4-train.00000-of-01024.json.gz", "train[:40000]"),
        ("en/c4-validation.00000-of-00008.json.gz", "validation[:1100]"),
    ]


def test_a_row_without_text_is_shown(write, places):
    write("c4/demo.jsonl", '{"txt": "a"}')
    with pytest.raises(RecipeError, match="txt"):
        c4.load("train", places)


def test_the_real_file(real_places):
    train, evaluation = (dataset.load("c4", part, real_places) for part in ("train", "evaluation"))
    assert len(train.documents) + len(evaluation.documents) == 300

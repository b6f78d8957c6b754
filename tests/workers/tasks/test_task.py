"""Local rows: every form that a file may have gives the same row, and a bad file is told by name and line."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.tasks.official import FILES, OFFICIAL, write_rows
from workers.contracts.places import Places
from workers.contracts.tasks import PAPER_METRICS, WantedTask
from workers.errors import RecipeError
from workers.tasks import arc_easy, hellaswag, piqa, task, winogrande
from workers.tasks.task import Row, load_local


def wanted(name: str, num_fewshot: int = 0) -> WantedTask:
    return WantedTask(name, None, num_fewshot, "evaluate.tasks.3")


def test_each_of_the_five_has_its_file_and_is_found(places: Places) -> None:
    for name in PAPER_METRICS:
        found = load_local(wanted(name), places)
        assert found is not None and found.source == FILES[name]
        assert len(found.rows) == len(OFFICIAL[name]) and found.examples == ()


def test_what_is_not_here_or_not_ours_is_left_to_the_hub(tmp_path: Path, places: Places) -> None:
    assert load_local(wanted("lambada_openai"), places) is None
    assert load_local(wanted("piqa"), Places(data_dirs=[str(tmp_path / "empty")])) is None


def test_piqa_has_its_label_beside_it_in_the_official_release(tmp_path: Path) -> None:
    rows = OFFICIAL["piqa"]
    unlabelled = [{key: value for key, value in row.items() if key != "label"} for row in rows]
    file = write_rows(tmp_path, "tasks/piqa_official/valid.jsonl", unlabelled)
    labels = file.with_name("valid-labels.lst")
    labels.write_text("".join(f"{row['label']}\n" for row in rows), "utf-8")
    write_rows(tmp_path, "tasks/piqa.jsonl", [{"query": "Question: other\n", "choices": ["a", "b"], "gold": 0}])
    places = Places(data_dirs=[str(tmp_path)])
    found = load_local(wanted("piqa"), places)
    assert found is not None and found.rows == tuple(piqa.row(row) for row in rows)
    labels.write_text("0\n1\n", "utf-8")
    with pytest.raises(RecipeError, match="2 labels and .* has 5 rows"):
        load_local(wanted("piqa"), places)


def test_the_short_form_gives_the_same_prompt() -> None:
    assert piqa.row({"query": "Question: fill a hole\n", "choices": ["Dig.", "Use plaster."], "gold": 1}) == piqa.row(
        OFFICIAL["piqa"][4]
    )
    asked = {"query": "Question: What melts ice?", "choices": OFFICIAL["arc_easy"][0]["choices"]["text"], "gold": 0}
    assert arc_easy.row(asked) == arc_easy.row(OFFICIAL["arc_easy"][0])
    options = {"context_options": ["x so Ada", "x so Bea"], "continuation": "was cold.", "gold": 1}
    sentence = {"sentence": "x so _ was cold.", "option1": "Ada", "option2": "Bea", "answer": "2"}
    assert winogrande.row(options) == winogrande.row(sentence) == Row(("x so Ada", "x so Bea"), ("was cold.",), 1)
    begun = {"query": "Surfing: A boy waits. the boy", "choices": SCENE["endings"], "gold": 2}
    assert hellaswag.row(begun) == hellaswag.row(SCENE)


SCENE: dict[str, Any] = OFFICIAL["hellaswag"][2]


@pytest.mark.parametrize("end", ["", ".", '."', "!"])
def test_a_scene_that_has_no_begun_sentence_stays(end: str) -> None:
    query = f"Home: How to fold. Lay it flat, and smooth it{end}"
    whole = query if end else query.replace("Lay", "lay")
    row = hellaswag.row({"query": whole, "choices": ["a", "b"], "gold": 0})
    assert row.contexts[0] == query


def test_ai2s_own_form_of_arc_is_the_hubs() -> None:
    hub = OFFICIAL["arc_easy"][1]
    choices = [{"text": t, "label": n} for t, n in zip(hub["choices"]["text"], hub["choices"]["label"], strict=True)]
    assert arc_easy.row({"question": {"stem": hub["question"], "choices": choices}, "answerKey": "2"}) == arc_easy.row(
        hub
    )


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("piqa", {"label": None}, "label is None"),
        ("piqa", {"label": 2}, "label is 2 and there are 2 choices"),
        ("piqa", {"label": True}, "label is True"),
        ("winogrande", {"answer": ""}, "label is ''"),
        ("winogrande", {"sentence": "no gap here"}, "no blank"),
        ("winogrande", {"sentence": 7}, "'int' object"),
        ("hellaswag", {"label": "-1"}, "label is '-1' and there are 4 choices"),
        ("hellaswag", {"ctx_b": None}, "NoneType"),
        ("arc_easy", {"answerKey": "Z"}, "answerKey is 'Z'"),
        ("arc_challenge", {"choices": {"text": ["one"], "label": ["A"]}, "answerKey": "A"}, "two or more texts"),
    ],
)
def test_a_bad_row_is_told_with_its_file_and_line(
    name: str, change: dict[str, Any], words: str, data_dir: Path, places: Places
) -> None:
    rows = [*OFFICIAL[name]]
    rows[2] = {**rows[2], **change}
    file = write_rows(data_dir, FILES[name], rows)
    with pytest.raises(RecipeError) as refused:
        load_local(wanted(name), places)
    assert refused.value.field == "evaluate.tasks.3"
    assert f"row 3 of {file}" in refused.value.detail and words in refused.value.detail


def test_a_missing_label_names_the_fields_that_are_there(data_dir: Path, places: Places) -> None:
    write_rows(data_dir, FILES["piqa"], [{key: row[key] for key in row if key != "label"} for row in OFFICIAL["piqa"]])
    with pytest.raises(RecipeError, match="it has no 'label'; its fields are goal, sol1, sol2"):
        load_local(wanted("piqa"), places)


def test_an_empty_file_and_no_json_are_refused(data_dir: Path, places: Places) -> None:
    (data_dir / FILES["piqa"]).write_text("", "utf-8")
    with pytest.raises(RecipeError, match="holds no row of piqa"):
        load_local(wanted("piqa"), places)
    (data_dir / FILES["piqa"]).write_text("{", "utf-8")
    with pytest.raises(RecipeError, match="is no JSON") as refused:
        load_local(wanted("piqa"), places)
    assert refused.value.field == "evaluate.tasks.3"


def test_examples_come_from_the_training_split_alone(data_dir: Path, places: Places) -> None:
    with pytest.raises(RecipeError, match="2 examples of winogrande .* tasks/winogrande_train.jsonl"):
        load_local(wanted("winogrande", num_fewshot=2), places)
    write_rows(data_dir, "tasks/winogrande_train.jsonl", OFFICIAL["winogrande"][:3])
    found = load_local(wanted("winogrande", num_fewshot=2), places)
    assert found is not None and found.examples == found.rows[:3]
    assert found.sha256 != load_local(wanted("winogrande"), places).sha256


def test_the_digest_is_of_the_rows_and_not_of_their_form(data_dir: Path, places: Places) -> None:
    before = load_local(wanted("hellaswag"), places)
    file = data_dir / FILES["hellaswag"]
    packed = file.with_suffix(".jsonl.gz")
    packed.write_bytes(gzip.compress(json.dumps(OFFICIAL["hellaswag"]).encode()))
    file.unlink()
    after = load_local(wanted("hellaswag"), places)
    assert after.source != before.source and after.sha256 == before.sha256
    write_rows(data_dir, FILES["hellaswag"], OFFICIAL["hellaswag"][::-1])
    packed.unlink()
    assert load_local(wanted("hellaswag"), places).sha256 != before.sha256


@given(st.integers(2, 9), st.integers(-3, 12), st.integers(0, 1))
def test_a_label_is_an_index_or_refused(choices: int, label: int, first: int) -> None:
    if first <= label < choices + first:
        assert task.gold_index(label, choices, first) == task.gold_index(str(label), choices, first) == label - first
    else:
        with pytest.raises(ValueError, match="label is"):
            task.gold_index(label, choices, first)


def test_reading_rows_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom importlib import import_module\nfrom workers.contracts.tasks import PAPER_METRICS\n"
        "[import_module(f'workers.tasks.{name}') for name in PAPER_METRICS]\n"
        "print(*sorted({'torch', 'transformers', 'datasets', 'lm_eval'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr

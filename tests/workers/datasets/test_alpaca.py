"""Alpaca: prompts in the usual words, questions never on both sides."""

import json

import pytest

from workers.datasets import alpaca, dataset
from workers.errors import RecipeError


def row(instruction, output, given=""):
    return {"instruction": instruction, "input": given, "output": output}


def both(places):
    return [*alpaca.load("train", places).documents, *alpaca.load("evaluation", places).documents]


def test_the_prompts(write, places, no_hub):
    write("alpaca/a.json", json.dumps([row("Add.", "3", "1 + 2"), row("Greet {me}.", "Hello.")]))
    with_input, without_input = sorted(both(places), key=len, reverse=True)
    assert with_input.endswith("### Instruction:\nAdd.\n\n### Input:\n1 + 2\n\n### Response:\n3")
    assert "### Input" not in without_input
    assert without_input.endswith("### Instruction:\nGreet {me}.\n\n### Response:\nHello.")


def test_files_unite_by_name_without_duplicates_and_empty_answers(write, places, no_hub):
    write("alpaca/b.json", json.dumps([row("Q1", "A1"), row("Q3", "A3")]))
    write("alpaca/a.json", json.dumps([row("Q1", "A1"), row("Q2", " ")]))
    documents = both(places)
    assert sorted(document.rpartition("\n")[2] for document in documents) == ["A1", "A3"]


def test_two_answers_to_one_question_stay_together(write, places, no_hub):
    rows = [row(f"Question {index}", answer) for index in range(200) for answer in ("yes", "no")]
    write("alpaca/a.json", json.dumps(rows))
    train, evaluation = alpaca.load("train", places), alpaca.load("evaluation", places)
    assert len(train.documents) + len(evaluation.documents) == 400
    assert 10 < len(evaluation.documents) < 80
    questions = [{text.split("### Response")[0] for text in part.documents} for part in (train, evaluation)]
    assert questions[0].isdisjoint(questions[1])


def test_the_hub_stands_in(places, hub):
    asked = hub(row("Q", "A") | {"text": "unused"})
    assert len(both(places)) == 1
    assert asked[0][0].id == "tatsu-lab/alpaca"


def test_a_row_of_another_kind_is_shown(write, places):
    write("alpaca/a.json", json.dumps([{"prompt": "x"}]))
    with pytest.raises(RecipeError, match="prompt"):
        alpaca.load("train", places)


def test_the_real_files(real_places):
    train, evaluation = (dataset.load("alpaca", part, real_places) for part in ("train", "evaluation"))
    assert len(train.documents) > 10_000
    assert 0.08 < len(evaluation.documents) / len(train.documents) < 0.14
    assert dataset.without(train, [evaluation]) == train

"""Alpaca: instructions and answers, each written out in Alpaca's own prompt."""

from typing import Any

from workers.contracts.places import Places
from workers.datasets.dataset import Documents, Part, distinct, is_held_out, local_files, read_json_rows
from workers.datasets.hub import HubTable, hub_rows
from workers.errors import RecipeError

_HUB = HubTable("tatsu-lab/alpaca", "dce01c9b08f87459cf36a430d809084718273017")
_FILES = "alpaca/*.json"

_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}\n\n### Response:\n{output}"
)
_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n{output}"
)


def load(part: Part, places: Places, path: str | None = None) -> Documents:
    """Prompts with their answers, joined by "\\n\\n"; a tenth of the instructions is kept for evaluation.

    Of several local files the union is taken, files by name and rows in order, duplicates after their first. The tenth
    is chosen by the digest of instruction and input, so that two answers to one question never part.

    Raises:
        RecipeError: there is no local copy and none from the hub, or a row lacks a field.
    """
    if files := local_files(places, _FILES):
        rows = [row for file in files for row in read_json_rows(file)]
    else:
        rows = hub_rows(places, _HUB, "train", _FILES)
    wanted = [row for row in map(_checked, rows) if is_held_out(_question(row)) == (part == "evaluation")]
    return Documents(tuple(distinct(_prompt(row) for row in wanted if row["output"].strip())), separator="\n\n")


def _checked(row: dict[str, Any]) -> dict[str, str]:
    """The row's three texts; a missing input is an empty one."""
    texts = {name: row.get(name) or "" for name in ("instruction", "input", "output")}
    if "output" not in row or not all(isinstance(text, str) for text in texts.values()):
        raise RecipeError("data.name", f"alpaca: a row is no {{instruction, input, output}} of texts: {str(row)[:200]}")
    return texts


def _question(row: dict[str, str]) -> str:
    return f"{row['instruction']}\n{row['input']}"


def _prompt(row: dict[str, str]) -> str:
    return (_WITH_INPUT if row["input"].strip() else _WITHOUT_INPUT).format(**row)

"""A few rows of each task in the official form, and how they are written to files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

GOALS = [
    ("How do I dry a wet book?", "Stand it open in moving air. ", "Put it into a bucket of water.", 0),
    ("keep a door open", "wedge a folded card under it", "paint the door green, twice  ", 0),
    ("To cool soup.", "Cover it and heat it.", "Stir it; blow over the spoon.", 1),
    ("write in the dark", "take a pen — with a lamp", "take a pen with an umbrella", 0),
    ("fill a hole", "Dig.", "Use plaster.", 1),
]
SENTENCES = [
    ("Ada lent Bea her coat because _ was cold.", "Ada", "Bea", "2"),
    ("The cup did not fit on the shelf, for the _  was too tall. ", "shelf", "cup", "2"),
    ("Carl thanked Dan, since _ had been helped.", "Carl", "Dan", "1"),
    ("The dog barked at the cat until the _ ran.", "dog", "cat", "2"),
    ("_ is not what Eve asked Flo for, said Eve.", "Tea", "This", "1"),
]
SCENES = [
    (
        "Baking",
        "A man kneads dough.",
        "he then",
        ["puts it into an oven.", "eats [the] table.", "flies.", "sleeps."],
        0,
    ),
    (
        "Home",
        "[header] How to fold [title] Lay it flat. [step] Smooth it.",
        "",
        ["Then  fold.", "[title] Go.", "A", "B"],
        0,
    ),
    ("Surfing", "A boy waits.", "the boy", ["stands up.", "is a wave.", "reads.", "sings a long song."], 2),
    ("Sports", "Two teams meet.", "they Play", ["chess.", "no more.", "ball — hard.", "again."], 2),
    ("Music", "She tunes a harp", "", ["and plays.", "and breaks it.", "to sell.", "by the sea."], 1),
]
QUESTIONS = [
    ("What melts ice?", ["heat", "cold wind", "darkness", "sound waves"], ["A", "B", "C", "D"], "A"),
    ("Which is a metal?", ["wood", "iron", "glass"], ["1", "2", "3"], "2"),
    ("What do roots take up?", ["light", "water and salts", "songs", "air"], ["A", "B", "C", "D"], "B"),
    ("Which is fastest?", ["a snail", "light", "a dog", "a train that waits"], ["1", "2", "3", "4"], "2"),
    ("Why is it day?", ["the sun", "the moon", "a lamp", "fire", "none"], ["A", "B", "C", "D", "E"], "E"),
]

OFFICIAL: dict[str, list[dict[str, Any]]] = {
    "piqa": [{"goal": goal, "sol1": one, "sol2": two, "label": label} for goal, one, two, label in GOALS],
    "winogrande": [
        {"sentence": text, "option1": one, "option2": two, "answer": answer} for text, one, two, answer in SENTENCES
    ],
    "hellaswag": [
        {"activity_label": name, "ctx_a": a, "ctx_b": b, "ctx": f"{a} {b}", "endings": endings, "label": str(label)}
        for name, a, b, endings, label in SCENES
    ],
    "arc_easy": [
        {"question": text, "choices": {"text": texts, "label": labels}, "answerKey": key}
        for text, texts, labels, key in QUESTIONS
    ],
    "arc_challenge": [
        {"question": text, "choices": {"text": texts, "label": labels}, "answerKey": key}
        for text, texts, labels, key in reversed(QUESTIONS)
    ],
}
"""Rows in the form of the hub's tables, which lm-eval's definitions read."""

FILES = {
    "piqa": "tasks/piqa.jsonl",
    "winogrande": "tasks/winogrande.jsonl",
    "hellaswag": "tasks/hellaswag_val.jsonl",
    "arc_easy": "tasks/arc_easy.jsonl",
    "arc_challenge": "tasks/arc_challenge.jsonl",
}


def write_all(folder: Path) -> Path:
    """The rows of all five tasks, in a folder laid out as those of DRESS_DATA_DIR."""
    for name, rows in OFFICIAL.items():
        write_rows(folder, FILES[name], rows)
    return folder


def write_rows(folder: Path, file: str, rows: list[dict[str, Any]]) -> Path:
    """One JSON object a line."""
    target = folder / file
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return target

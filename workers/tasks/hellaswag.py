"""HellaSwag: how a described scene goes on; the validation split is evaluated."""

import re

from workers.tasks.task import Record, Row, choice_row, question_row

FILES = ("tasks/hellaswag_val.jsonl", "tasks/hellaswag.jsonl")
SPLIT = "validation"
EXAMPLES = ("tasks/hellaswag_train.jsonl",)

_BEGUN_SENTENCE = re.compile(r"(?:^|(?<=[.!?:] )|(?<=[.!?][\"')] ))([a-z][^.!?]*)$")
"""A last sentence that begins in lower case and does not end: what official files call `ctx_b`."""


def row(record: Record) -> Row:
    """A record `{activity_label, ctx_a, ctx_b, endings, label}`, or `{query, choices, gold}` with marks taken out.

    The second form has lost where `ctx_b` begins; see `_capitalized`.
    """
    if "query" in record:
        return question_row({**record, "query": _capitalized(record["query"])})
    context = f"{record['activity_label']}: {record['ctx_a']} {record['ctx_b'].capitalize()}"
    return choice_row(_plain(context), [_plain(ending) for ending in record["endings"]], record["label"])


def _plain(text: str) -> str:
    """The text without WikiHow's marks: a title becomes a sentence, what else stands in brackets goes."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def _capitalized(query: str) -> str:
    """The query with its begun last sentence capitalized, as the official prompt has it; others as they are."""
    return _BEGUN_SENTENCE.sub(lambda found: found[1].capitalize(), query)

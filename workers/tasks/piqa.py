"""PIQA: which of two solutions reaches an everyday goal; the validation split is evaluated."""

from workers.tasks.task import Record, Row, choice_row, gold_index, question, question_row

FILES = ("tasks/piqa_official/valid.jsonl", "tasks/piqa.jsonl")
"""The official files keep the blanks at the ends of solutions, and acc_norm counts them; the second file may not."""
SPLIT = "validation"
EXAMPLES = ("tasks/piqa_official/train.jsonl", "tasks/piqa_train.jsonl")


def row(record: Record) -> Row:
    """A record `{goal, sol1, sol2, label}`, or `{query, choices, gold}`; see `task.LocalTask`."""
    if "goal" not in record:
        return question_row(record, ending="Answer:")  # the query ends in a newline
    return choice_row(question(record["goal"]), [record["sol1"], record["sol2"]], gold_index(record["label"], 2))

"""ARC-Easy: school questions that simple retrieval answers; the test split is evaluated."""

from workers.tasks.task import Record, Row, arc_row

FILES = ("tasks/arc_easy.jsonl",)
SPLIT = "test"
EXAMPLES = ("tasks/arc_easy_train.jsonl",)


def row(record: Record) -> Row:
    """A record of the hub, of AI2's own release, or `{query, choices, gold}`; see `task.arc_row`."""
    return arc_row(record)

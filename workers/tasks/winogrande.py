"""WinoGrande: whom or what a sentence's blank means; its end is scored after either name, on the validation split."""

from workers.tasks.task import Record, Row, gold_index

FILES = ("tasks/winogrande.jsonl", "tasks/winogrande_val.jsonl")
SPLIT = "validation"
EXAMPLES = ("tasks/winogrande_train.jsonl",)


def row(record: Record) -> Row:
    """A record `{sentence, option1, option2, answer}`, or `{context_options, continuation, gold}`."""
    if "context_options" in record:
        contexts = tuple(record["context_options"])
        return Row(contexts, (record["continuation"],), gold_index(record["gold"], len(contexts)))
    before, blank, after = record["sentence"].partition("_")
    if not blank or not after.strip():
        raise ValueError("its sentence has no blank `_` with words after it")
    contexts = tuple(before + option for option in (record["option1"], record["option2"]))
    return Row(contexts, (after.strip(),), gold_index(record["answer"], 2, first=1))

"""The columns of a table: what each is called, how its figures are written, where they come from. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from workers.comparison.row import TableRow, perplexity, quotient
from workers.contracts.results import Measurement, Subject
from workers.contracts.tasks import TaskFigure
from workers.written import Form, Value, score_form


@dataclass(frozen=True)
class Column:
    """One column."""

    name: str
    """What programs call it, such as `perplexity.wikitext2.recovered`."""
    title: str
    """What people read above it."""
    form: Form
    value: Callable[[TableRow], Value]
    is_brief: bool = True
    """Whether it stands in a study's table too, where rows say by their names how they differ."""
    error_of: str | None = None
    """The column whose standard error this is; people read it there, behind the figure."""
    about: str = ""
    """The text or task that neighbouring columns are all about; the first of them says so in its title."""


def columns_of(rows: Sequence[TableRow]) -> list[Column]:
    """The columns that these rows have something to say in, in their order."""
    columns = [
        Column("method", "method", "plain", method_of, is_brief=False),
        Column("ratio", "ratio", "plain", lambda row: row.said("method", "ratio"), is_brief=False),
        *_where_rows_differ(rows),
        Column("parameters", "parameters", "count", lambda row: row.final.parameters if row.final else None),
        Column("nonzero_parameters", "without zeros", "count", _nonzero),
        Column("parameters_fraction", "% of dense", "percent", lambda row: row.parameters_fraction),
        Column("bytes", "bytes", "count", lambda row: row.final.bytes if row.final else None, is_brief=False),
    ]
    for text in texts_of(rows):
        columns += _of_perplexity(text)
    for task in tasks_of(rows):
        columns += _of_task(task, rows)
    columns += _of_speed()
    columns += [
        Column("peak_bytes", "peak memory", "count", lambda row: row.peak_bytes, is_brief=False),
        Column("seconds", "seconds", "seconds", lambda row: row.seconds),
        Column("gpu_hours", "GPU-hours", "hours", lambda row: row.gpu_hours, is_brief=False),
    ]
    kept = {"method", "parameters", "parameters_fraction", "seconds"}
    kept |= {
        f"perplexity.{text}.{part}" for text in texts_of(rows) for part in ("dense", "pruned", "recovered", "ratio")
    }
    return _headed(each for each in columns if each.name in kept or any(each.value(row) is not None for row in rows))


def _headed(columns: Iterable[Column]) -> list[Column]:
    """The columns, the first about each thing with its name in the title."""
    headed: list[Column] = []
    told: set[str] = set()
    for column in columns:
        if column.about and column.about not in told:
            told.add(column.about)
            column = replace(column, title=f"{column.about}: {column.title}")
        headed.append(column)
    return headed


def in_order(rows: Sequence[TableRow], by: str) -> list[TableRow]:
    """The rows in the order of a column's figures, least first, with `-` before the name most first; unknown ones last.

    Raises:
        LookupError: these rows have no such column; the message has their names.
    """
    columns = {"name": Column("name", "row", "plain", lambda row: row.name), **{c.name: c for c in columns_of(rows)}}
    name = by.removeprefix("-")
    if name not in columns:
        raise LookupError(f"there is no column {name!r} here; sort by one of {', '.join(columns)}")
    pairs = [(columns[name].value(row), row) for row in rows]
    known = [(value, row) for value, row in pairs if value is not None]
    known.sort(key=lambda pair: _rank(pair[0]), reverse=by.startswith("-"))
    return [row for _, row in (*known, *(pair for pair in pairs if pair[0] is None))]


def _rank(value: Value) -> tuple[bool, float, str]:
    return (True, 0.0, value) if isinstance(value, str) else (False, float(value or 0), "")


def texts_of(rows: Iterable[TableRow]) -> list[str]:
    """The texts on which perplexity was measured."""
    return list(dict.fromkeys(text for row in rows for each in models(row) for text in each.perplexity or {}))


def tasks_of(rows: Iterable[TableRow]) -> list[str]:
    """The zero-shot tasks that were measured, means of several among them."""
    return list(dict.fromkeys(task for row in rows for each in models(row) for task in scores(each)))


def models(row: TableRow) -> list[Measurement]:
    """What was measured of the row's models, dense first."""
    return [each for each in (row.results.dense, row.results.pruned, row.results.recovered) if each]


def scores(measured: Measurement | None) -> Mapping[str, TaskFigure]:
    """What a model scored, by task."""
    return (measured and measured.tasks) or {}


def method_of(row: TableRow) -> str:
    """The method in a word or two, such as `dress paper` or `sleb`."""
    words = (row.said("method", "kind"), row.said("method", "preset"))
    return " ".join(str(word) for word in words if word)


def _where_rows_differ(rows: Sequence[TableRow]) -> list[Column]:
    """Model, training text and seed, where not all rows have the same: else they are told once, or not at all."""
    told = {
        "model": ("model", lambda row: row.said("model", "source")),
        "data": ("training text", _training_text),
        "seed": ("seed", lambda row: row.said("seed")),
    }
    return [
        Column(name, title, "plain", value, is_brief=False)
        for name, (title, value) in told.items()
        if len({json.dumps(value(row)) for row in rows}) > 1
    ]


def _training_text(row: TableRow) -> str | None:
    name, samples = row.said("data", "name"), row.said("data", "samples")
    return f"{name}, {samples} samples, {row.said('data', 'split')}" if name else None


def _nonzero(row: TableRow) -> int | None:
    return row.final.nonzero_parameters if row.final else None


def _of_perplexity(text: str) -> list[Column]:
    def of(subject: Subject) -> Callable[[TableRow], Value]:
        return lambda row: perplexity(getattr(row.results, subject), text)

    return [
        Column(f"perplexity.{text}.dense", "dense", "perplexity", of("dense"), about=text),
        Column(f"perplexity.{text}.pruned", "pruned", "perplexity", of("pruned"), about=text),
        Column(f"perplexity.{text}.recovered", "recovered", "perplexity", of("recovered"), about=text),
        Column(f"perplexity.{text}.ratio", "÷ dense", "ratio", lambda row: row.perplexity_ratio(text), about=text),
    ]


def _of_task(task: str, rows: Sequence[TableRow]) -> list[Column]:
    def of(subject: Subject | None, figure: str) -> Callable[[TableRow], Value]:
        def value(row: TableRow) -> Value:
            measured = row.final if subject is None else getattr(row.results, subject)
            found: Value = getattr(scores(measured).get(task), figure, None)
            return found

        return value

    scored = [scores(each)[task] for row in rows for each in models(row) if task in scores(each)]
    metrics = {each.metric for each in scored}
    name, title = f"tasks.{task}", f"{task} ({metrics.pop()})" if len(metrics) == 1 else task
    form = score_form(each.value for each in scored)
    return [
        Column(f"{name}.dense", "dense", form, of("dense", "value"), about=title),
        Column(f"{name}.dense.stderr", "", form, of("dense", "stderr"), error_of=f"{name}.dense"),
        Column(f"{name}.final", "after", form, of(None, "value"), about=title),
        Column(f"{name}.final.stderr", "", form, of(None, "stderr"), error_of=f"{name}.final"),
    ]


def _of_speed() -> list[Column]:
    """Generation and prompt: how fast the final model is, and how many times as fast as the dense one beside it."""
    columns = [
        Column("speed.generation", "tokens/s", "rate", lambda row: _rate(row.final)),
        Column("speed.generation.ratio", "÷ dense", "speedup", _generation_ratio),
    ]
    for end in ("p10", "p90"):
        columns.append(_ratio_of("generation", end))
    return [
        *columns,
        Column("speed.prompt.seconds", "prompt, s", "figure", _prompt_seconds, is_brief=False),
        *(_ratio_of("prompt", figure) for figure in ("median", "p10", "p90")),
    ]


def _ratio_of(work: str, figure: str) -> Column:
    def value(row: TableRow) -> Value:
        workload = getattr(row.final.speed, work) if row.final and row.final.speed else None
        found: Value = getattr(workload.ratio, figure) if workload and workload.ratio else None
        return found

    name = f"speed.{work}.ratio" if figure == "median" else f"speed.{work}.ratio.{figure}"
    title = "prompt ÷ dense" if figure == "median" else figure
    return Column(name, title, "speedup", value, is_brief=False)


def _rate(measured: Measurement | None) -> float | None:
    return measured.speed.generation_tokens_per_second if measured and measured.speed else None


def _generation_ratio(row: TableRow) -> float | None:
    """Paired by rounds where they were recorded, else the quotient of the two rates."""
    work = row.final.speed.generation if row.final and row.final.speed else None
    return work.ratio.median if work and work.ratio else quotient(_rate(row.final), _rate(row.results.dense))


def _prompt_seconds(row: TableRow) -> float | None:
    work = row.final.speed.prompt if row.final and row.final.speed else None
    return work.seconds if work else None

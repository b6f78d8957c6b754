"""The page that travels with a pruned model: where it comes from, what was measured, how to make it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from workers.contracts.recipe import Recipe
from workers.contracts.results import Measurement, Results, Speed, TimesAsFast
from workers.contracts.tasks import TaskFigure
from workers.models.family import SLICED

CARD = """\
---
{front}---
# {source}, {what}

{how}

{licence}

{loading}

{table}

## Digests

SHA-256 over the stored tensors, whatever files hold them:

{digests}

## Recipe

```yaml
{recipe}```
"""

MIB = 2**20

STOCK = "Load it with `AutoModelForCausalLM.from_pretrained`; no remote code is needed."

REMOTE_CODE = """\
Load it with `AutoModelForCausalLM.from_pretrained(..., trust_remote_code=True)`. The library's own code for this
architecture derives the size of an attention head from the width of the model, and here the heads kept theirs; the file
`{file}` in this folder lets the config say it and changes nothing else. Read it before you trust it. `AutoTokenizer`
reads the config too, so give it the same argument. For OPT and GPT-NeoX, `method.export: native` makes a model that
needs no such file, at the price of attention heads."""

SLICED_CODE = """\
Load it with `AutoModelForCausalLM.from_pretrained(..., trust_remote_code=True)`. The stream has another basis before
every norm, and a matrix on each residual shortcut leads from one to the next, which the library's own code cannot say;
the file `{file}` in this folder does. Read it before you trust it. `AutoTokenizer` reads the config too, so give it the
same argument."""

ZEROS = """\
With the method `llm_surgeon` {share:.0%} of the elements of the blocks' linear layers were set to zero, in whole rows
and columns. The shapes are the dense model's, and so are size and speed; layers reshaped to what is left would hold
what the table calls nonzero parameters."""


def model_card(
    recipe: Recipe, results: Results, dense_digest: str, licence: Mapping[str, Any], modelling_file: str | None = None
) -> str:
    """Markdown with front matter, as the Hugging Face hub reads it.

    Args:
        dense_digest: of the dense model's weights, config and tokenizer together.
        licence: fields of the front matter; see `workers.licence.licence_of`.
        modelling_file: the name of the file that the model needs, if stock code cannot load it.
    """
    shown = _without_folders(recipe)
    source = shown["model"]["source"]
    is_pruned = bool(recipe.method.ratio)
    tags = ["pruned", "structured-pruning", recipe.method.kind] if is_pruned else ["fine-tuned"]
    base = {"base_model": source} if source == recipe.model.source else {}
    front = {**base, **licence, "library_name": "transformers", "tags": tags}
    return CARD.format(
        front=yaml.safe_dump(front, sort_keys=False, allow_unicode=True),
        source=source,
        what="pruned" if is_pruned else "fine-tuned",
        how=_how(recipe),
        licence=_licence(licence),
        loading=_loading(modelling_file),
        table=_table(results),
        digests=_digests(results, dense_digest),
        recipe=yaml.safe_dump(shown, sort_keys=False),
    )


def _loading(modelling_file: str | None) -> str:
    if modelling_file is None:
        return STOCK
    text = SLICED_CODE if modelling_file.startswith(f"modeling_{SLICED}") else REMOTE_CODE
    return text.format(file=modelling_file)


def _licence(licence: Mapping[str, Any]) -> str:
    if licence.get("license") == "unknown":
        return "The licence of the base model applies; its files do not say which that is."
    return f"The licence of the base model applies: {licence.get('license_name', licence['license'])}."


def _digests(results: Results, dense_digest: str) -> str:
    lines = [
        f"- {subject}: `{measured.weights_digest}`"
        for subject, measured in _columns(results).items()
        if measured.weights_digest
    ]
    return "\n".join([*lines, f"- dense, with its config and its tokenizer: `{dense_digest}`"])


def _how(recipe: Recipe) -> str:
    method = recipe.method
    if not method.ratio:
        return "Nothing was removed: this is a control, the dense model fine-tuned on the same data."
    if method.kind == "llm_surgeon":
        return ZEROS.format(share=method.ratio)
    preset = f" (preset `{method.preset}`)" if hasattr(method, "preset") else ""
    parts = "transformer blocks" if method.kind == "sleb" else "hidden channels"
    return f"{method.ratio:.0%} of the {parts} were removed with the method `{method.kind}`{preset}."


def _without_folders(recipe: Recipe) -> dict[str, Any]:
    """The recipe in plain form, paths of this machine cut to their last part: they mean nothing where the card goes."""
    shown = recipe.model_dump(mode="json")
    for holder, field in [(shown["model"], "source"), *((text, "path") for text in _texts(shown))]:
        if holder[field] and holder[field].startswith("/"):
            holder[field] = holder[field].rstrip("/").rpartition("/")[2]
    return shown


def _texts(shown: dict[str, Any]) -> list[dict[str, Any]]:
    return [shown["data"], *shown["evaluate"]["perplexity"]]


def _table(results: Results) -> str:
    columns = _columns(results)
    texts = list((results.dense and results.dense.perplexity) or {})
    rows = [["", *columns], ["---", *("---:" for _ in columns)]]
    rows += [
        [_measure(results, text), *(_perplexity(measured, text) for measured in columns.values())] for text in texts
    ]
    rows += _task_rows([measured.tasks or {} for measured in columns.values()])
    for name in ("parameters", "nonzero_parameters", "bytes", "hidden_size"):
        figures = [getattr(measured, name) for measured in columns.values()]
        if name == "nonzero_parameters" and not any(figures):
            continue
        rows.append([name.replace("_", " "), *("" if figure is None else f"{figure:,}" for figure in figures)])
    rows += _speed_rows([measured.speed for measured in columns.values()])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _task_rows(measured: list[dict[str, TaskFigure]]) -> list[list[str]]:
    """A row a task: its metric with the standard error, and what the figures rest on."""
    rows = []
    for name in dict.fromkeys(name for tasks in measured for name in tasks):
        one = next(tasks[name] for tasks in measured if name in tasks)
        title = f"{name}, {one.metric} ({one.num_fewshot}-shot, {one.n:,} rows, {one.version})"
        rows.append([title, *(_score(tasks.get(name)) for tasks in measured)])
    return rows


def _score(figure: TaskFigure | None) -> str:
    if figure is None or figure.value is None:
        return ""
    return f"{figure.value:.4f}" + ("" if figure.stderr is None else f" ± {figure.stderr:.4f}")


def _speed_rows(speeds: list[Speed | None]) -> list[list[str]]:
    """Both kinds of work: tokens a second, how many times dense's they are and could be, memory."""
    one = next((speed for speed in speeds if speed), None)
    if one is None:
        return []
    kinds = {
        f"tokens/s on {one.device}, {one.batch_size} x {one.new_tokens} generated": (
            [speed.generation_tokens_per_second if speed else None for speed in speeds],
            [speed.generation if speed else None for speed in speeds],
        ),
        f"tokens/s on {one.device}, a prompt of {one.prompt_tokens}": (
            [speed.prompt_tokens_per_second if speed else None for speed in speeds],
            [speed.prompt if speed else None for speed in speeds],
        ),
    }
    rows = []
    for title, (rates, works) in kinds.items():
        ratios = [work.ratio if work else None for work in works]
        rows += [
            [title, *("" if rate is None else f"{rate:,.0f}" for rate in rates)],
            ["times dense (p10 to p90)", *("" if ratio is None else _spread(ratio) for ratio in ratios)],
            [
                "times dense by arithmetic",
                *(f"{work.ideal_ratio:.2f}" if work and work.ideal_ratio else "" for work in works),
            ],
            [
                "peak memory, MiB",
                *(f"{work.peak_bytes / MIB:,.1f}" if work and work.peak_bytes else "" for work in works),
            ],
        ]
    return [row for row in rows if any(row[1:])]


def _spread(ratio: TimesAsFast) -> str:
    return f"{ratio.median:.2f} ({ratio.p10:.2f} to {ratio.p90:.2f})"


def _columns(results: Results) -> dict[str, Measurement]:
    """What was measured, by model."""
    return {name: measured for name in ("dense", "pruned", "recovered") if (measured := getattr(results, name))}


def _measure(results: Results, text: str) -> str:
    """What a row of perplexities says, and in which windows it was measured."""
    protocol = ((results.dense and results.dense.perplexity_protocol) or {}).get(text)
    return f"perplexity, {text}" + (f" ({protocol.sequence_length} tokens a window)" if protocol else "")


def _perplexity(measured: Measurement, text: str) -> str:
    figure = (measured.perplexity or {}).get(text)
    return "" if figure is None else f"{figure:.2f}"

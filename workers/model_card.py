"""The page that travels with a pruned model: where it comes from, what was measured, how to make it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from workers.contracts.recipe import Recipe
from workers.contracts.results import Measurement, Results

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


STOCK = "Load it with `AutoModelForCausalLM.from_pretrained`; no remote code is needed."

REMOTE_CODE = """\
Load it with `AutoModelForCausalLM.from_pretrained(..., trust_remote_code=True)`. The library's own code for this
architecture derives the size of an attention head from the width of the model, and here the heads kept theirs; the file
`{file}` in this folder lets the config say it and changes nothing else. Read it before you trust it. `AutoTokenizer`
reads the config too, so give it the same argument. For OPT and GPT-NeoX, `method.export: native` makes a model that
needs no such file, at the price of attention heads."""


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
        loading=STOCK if modelling_file is None else REMOTE_CODE.format(file=modelling_file),
        table=_table(results),
        digests=_digests(results, dense_digest),
        recipe=yaml.safe_dump(shown, sort_keys=False),
    )


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
    preset = f" (preset `{method.preset}`)" if hasattr(method, "preset") else ""
    return f"{method.ratio:.0%} of the hidden channels were removed with the method `{method.kind}`{preset}."


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
    for name in ("parameters", "bytes", "hidden_size"):
        figures = [getattr(measured, name) for measured in columns.values()]
        rows.append([name.replace("_", " "), *("" if figure is None else f"{figure:,}" for figure in figures)])
    speeds = [measured.speed for measured in columns.values()]
    if any(speeds):
        rates = ["" if speed is None else f"{speed.generation_tokens_per_second:,.0f}" for speed in speeds]
        rows.append([f"tokens/s on {next(speed.device for speed in speeds if speed)}", *rates])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


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

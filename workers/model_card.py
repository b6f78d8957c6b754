"""The page that travels with a pruned model: where it comes from, what was measured, how to make it again."""

from __future__ import annotations

from typing import Any

import yaml

from workers.contracts.recipe import Recipe
from workers.contracts.results import Measurement, Results

CARD = """\
---
{base_model}library_name: transformers
tags: [pruned, structured-pruning, {kind}]
---
# {source}, pruned

{ratio:.0%} of the hidden channels were removed with the method `{kind}` (preset `{preset}`). The licence of the base
model applies. Load it with `AutoModelForCausalLM.from_pretrained`; no remote code is needed.

{table}

Digest of the dense model: `{digest}`.

## Recipe

```yaml
{recipe}```
"""


def model_card(recipe: Recipe, results: Results, dense_digest: str) -> str:
    """Markdown with front matter, as the Hugging Face hub reads it."""
    shown = _without_folders(recipe)
    source = shown["model"]["source"]
    return CARD.format(
        base_model=f"base_model: {source}\n" if source == recipe.model.source else "",
        source=source,
        kind=recipe.method.kind,
        preset=recipe.method.preset,
        ratio=recipe.method.ratio,
        table=_table(results),
        digest=dense_digest,
        recipe=yaml.safe_dump(shown, sort_keys=False),
    )


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
    columns = {name: measured for name in ("dense", "pruned", "recovered") if (measured := getattr(results, name))}
    texts = list((results.dense and results.dense.perplexity) or {})
    rows = [["", *columns], ["---", *("---:" for _ in columns)]]
    rows += [[f"perplexity, {text}", *(_perplexity(measured, text) for measured in columns.values())] for text in texts]
    rows.append(["parameters", *(f"{measured.parameters:,}" for measured in columns.values())])
    rows.append(["bytes", *(f"{measured.bytes:,}" for measured in columns.values())])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _perplexity(measured: Measurement, text: str) -> str:
    figure = (measured.perplexity or {}).get(text)
    return "" if figure is None else f"{figure:.2f}"

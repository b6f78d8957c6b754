"""lm-eval around our own models: its task objects over local rows or the hub's, and what it makes of one model.

Importing this loads lm-eval, torch and transformers: only attempts that are asked for tasks do.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import datasets
import lm_eval
from lm_eval.api.task import ConfigurableTask, Task
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from workers.contracts.places import Places
from workers.contracts.tasks import PAPER_METRICS, TaskFigure, WantedTask
from workers.datasets.hub import require_hub
from workers.errors import RecipeError
from workers.tasks.task import Row, Rows, digest, harness_version, load_local, local_task

VERSION = "1.0"
"""Of our own definitions: the version of the official ones whose figures they give."""

PREFERRED_METRICS = ("acc_norm", "acc", "exact_match")
"""Of a task that is not one of the paper's, the first that it has stands for it; else its first metric."""

BOOTSTRAP_ROUNDS = 1000
"""For the standard errors of metrics that are no means; those of accuracies are exact."""

_SEEDS = 2**32
"""numpy takes seeds below."""


@dataclass(frozen=True)
class Prepared:
    """A task that is ready to run: its rows are here."""

    wanted: WantedTask
    tasks: tuple[Task, ...]
    """What lm-eval runs for it: one, or the tasks of a group or tag."""
    digest: str
    """Of the rows and of lm-eval's version."""
    source: str


def prepare(wanted: WantedTask, places: Places) -> Prepared:
    """Load a task's rows: from local files for the paper's five if there are some, else from the hub by lm-eval.

    Raises:
        RecipeError: nobody knows the task, its rows can be had nowhere, or it asks for what no pruned text model does.
    """
    rows = load_local(wanted, places)
    if rows is not None:
        with _quiet():
            return Prepared(wanted, (local_definition(wanted.name, rows),), digest(rows), rows.source)
    manager = _registry()
    if wanted.name not in manager.all_tasks:
        raise RecipeError(wanted.field, f"lm-eval knows no task {wanted.name!r}; {_close_to(wanted.name, manager)}")
    tasks = tuple(_from_hub(wanted, places, manager))
    for task in tasks:
        _require_text_and_safety(wanted, task)
    source = ", ".join(dict.fromkeys(str(task.DATASET_PATH) for task in tasks))
    return Prepared(wanted, tasks, _hub_digest(tasks), f"hub: {source}")


def local_definition(name: str, rows: Rows) -> ConfigurableTask:
    """A task of the paper's over local rows: prompts, choices and metrics as in lm-eval's own definition."""
    split = local_task(name).SPLIT
    splits = {split: rows.rows, **({"train": rows.examples} if rows.examples else {})}
    table = datasets.DatasetDict({each: _table(part) for each, part in splits.items()})
    metrics = dict.fromkeys(("acc", PAPER_METRICS[name]))
    return ConfigurableTask(
        config={
            "task": name,
            "custom_dataset": lambda **_settings: table,
            f"{split}_split": split,
            "training_split": "train" if rows.examples else None,
            "output_type": "multiple_choice",
            **_fields(rows.rows[0]),
            "metric_list": [{"metric": each, "aggregation": "mean", "higher_is_better": True} for each in metrics],
            "metadata": {"version": VERSION},
        }
    )


def _fields(row: Row) -> dict[str, Any]:
    """How lm-eval reads a row of this form; with several contexts it wants the index where else the prompt stands."""
    if len(row.contexts) == 1:
        return {"doc_to_text": _first_context, "doc_to_target": "gold", "doc_to_choice": "continuations"}
    return {"doc_to_text": "gold", "doc_to_target": _first_continuation, "doc_to_choice": "contexts"}


def _first_context(row: Mapping[str, Any]) -> str:
    return row["contexts"][0]


def _first_continuation(row: Mapping[str, Any]) -> str:
    return row["continuations"][0]


def _table(rows: tuple[Row, ...]) -> datasets.Dataset:
    return datasets.Dataset.from_list(
        [{"contexts": list(row.contexts), "continuations": list(row.continuations), "gold": row.gold} for row in rows]
    )


@cache
def _registry() -> TaskManager:
    """lm-eval's own tasks; reading their definitions takes ten to twenty seconds, once a process."""
    with _quiet():
        return TaskManager()


@cache
def _no_registry() -> TaskManager:
    return TaskManager(include_defaults=False)


def _close_to(name: str, manager: TaskManager) -> str:
    close = difflib.get_close_matches(name, manager.all_tasks, n=8, cutoff=0.6)
    return f"close to it: {', '.join(close)}" if close else "no name is close to it; see the tasks of lm-eval"


def _from_hub(wanted: WantedTask, places: Places, manager: TaskManager) -> Iterator[Task]:
    """The tasks of a registered name, their rows downloaded or found in the hub's cache.

    Raises:
        RecipeError: the hub may not be asked, cannot be reached or does not have the rows.
    """
    remedy = "give this machine access to the hub"
    if wanted.name in PAPER_METRICS:
        remedy = f"put {' or '.join(local_task(wanted.name).FILES)} into a folder of DRESS_DATA_DIR, or {remedy}"
    if not places.ask_hub:
        raise RecipeError(wanted.field, f"the rows of {wanted.name} are not on this machine; {remedy}")
    try:
        path = (manager.task_index[wanted.name].cfg or {}).get("dataset_path")
        if isinstance(path, str) and path not in ("json", "csv", "parquet", "text", "arrow"):
            require_hub(path)
        with _quiet():
            loaded = manager.load([wanted.name])["tasks"]
    # The hub's libraries and the tasks' own code raise from unrelated trees.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise RecipeError(
            wanted.field, f"the rows of {wanted.name} cannot be had from the hub ({reason}); {remedy}"
        ) from error
    yield from loaded.values()


def _require_text_and_safety(wanted: WantedTask, task: Task) -> None:
    if getattr(task, "UNSAFE_CODE", False):
        raise RecipeError(wanted.field, f"{wanted.name} runs code that the model writes, which no worker does; drop it")
    if getattr(task, "MULTIMODAL", False):
        raise RecipeError(wanted.field, f"{wanted.name} shows images or sounds, and these models read text; drop it")


def _hub_digest(tasks: tuple[Task, ...]) -> str:
    """Digest of all evaluated rows, and of lm-eval's version, which the definitions come with."""
    told = hashlib.sha256(harness_version().encode())
    for task in tasks:
        told.update(str(task.task_name).encode())
        for row in task.eval_docs:
            told.update(json.dumps(row, sort_keys=True, default=str).encode())
    return told.hexdigest()


class Examiner(HFLM):
    """lm-eval's model class around a model that is already loaded, on its device and in its arithmetic.

    A request longer than the model's context loses its beginning, as lm-eval does it: `truncated` counts them.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Tokenizer, batch_size: int) -> None:
        """`tokenizer` is the examiner's own: it gets a pad token if it has none."""
        with _quiet():
            super().__init__(pretrained=model, backend="causal", tokenizer=tokenizer, batch_size=batch_size)
        self.truncated = 0

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
        """As lm-eval's, without a bar on the terminal: an attempt reports by events."""
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = False, override_bs: int | None = None) -> Any:
        """As lm-eval's; counts what does not fit.

        Raises:
            RecipeError: an answer alone is longer than the model's context.
        """
        for (_, continuation), context_ids, ids in requests:
            if len(ids) > self.max_length:
                raise RecipeError(
                    "evaluate.tasks",
                    f"the answer {continuation[:60]!r} has {len(ids)} tokens and the model's context {self.max_length}",
                )
            self.truncated += len(context_ids) + len(ids) > self.max_length + 1
        return super()._loglikelihood_tokens(requests, disable_tqdm=True, override_bs=override_bs)


def examine(examiner: Examiner, prepared: Prepared, seed: int) -> dict[str, TaskFigure]:
    """What a model makes of a task: figures by name; of a group or tag those of each of its tasks.

    With a limit the first rows are taken, in the files' order; the same seed draws the same few-shot examples.

    Raises:
        RecipeError: see `Examiner`.
    """
    wanted, before, small = prepared.wanted, examiner.truncated, seed % _SEEDS
    with _quiet():
        told = lm_eval.simple_evaluate(
            model=examiner,
            tasks=list(prepared.tasks),
            num_fewshot=wanted.num_fewshot,
            limit=wanted.limit,
            bootstrap_iters=BOOTSTRAP_ROUNDS,
            log_samples=False,
            task_manager=_no_registry(),
            random_seed=small,
            numpy_random_seed=small,
            torch_random_seed=small,
            fewshot_random_seed=small,
        )
    truncated = examiner.truncated - before
    return {name: _figure(told, name, prepared, truncated) for name in told["results"]}


def _figure(told: Any, name: str, prepared: Prepared, truncated: int) -> TaskFigure:
    """One task's figures out of lm-eval's answer, whose names are `metric,filter` and `metric_stderr,filter`."""
    measured = {key: value for key, value in told["results"][name].items() if "," in key}
    metrics = {key: value for key, value in measured.items() if "_stderr," not in key}
    chosen = _chosen(list(metrics), PAPER_METRICS.get(name))
    metric, _, kind = chosen.partition(",")
    return TaskFigure(
        metric=metric,
        value=_number(metrics[chosen]),
        stderr=_number(measured.get(f"{metric}_stderr,{kind}")),
        n=told["n-samples"][name]["effective"],
        num_fewshot=told["n-shot"].get(name, 0),
        truncated=truncated,
        metrics={key.removesuffix(",none"): number for key, value in metrics.items() if (number := _number(value))},
        version=f"lm-eval {harness_version()}, task version {told['versions'].get(name)}",
        source=prepared.source,
        rows_digest=prepared.digest,
    )


def _chosen(keys: list[str], metric: str | None) -> str:
    """The key of the metric that stands for the task."""
    for preferred in (metric, *PREFERRED_METRICS):
        found = next((key for key in keys if key.partition(",")[0] == preferred), None)
        if found:
            return found
    return keys[0]


def _number(value: Any) -> float | None:
    """A finite number, or None: lm-eval writes "N/A" where a standard error cannot be told."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without lm-eval's warnings about settings that are meant."""
    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)

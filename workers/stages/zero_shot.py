"""Measure what a model makes of zero-shot tasks, by lm-eval around the model as it is loaded here."""

from __future__ import annotations

from pathlib import Path

from workers import checkpoints
from workers.contracts.events import Notice, Progress
from workers.contracts.results import Measurement, Subject
from workers.contracts.tasks import PAPER_ZERO_SHOT, TaskFigure, mean_figure
from workers.stages.evaluate import arithmetic
from workers.stages.outcome import Outcome, StageRun
from workers.workbench import Workbench


def zero_shot(bench: Workbench, subject: Subject, folder: Path) -> StageRun:
    """Each task of the recipe in turn; weights and arithmetic are those of the perplexities (see `evaluate`).

    Raises:
        RecipeError: an answer is longer than the model's context.
    """
    from workers.tasks.harness import Examiner, examine  # takes seconds, and most jobs ask for no task

    settings = bench.recipe.evaluate
    model = checkpoints.load_model(folder, bench.export_dtype, bench.device).to(arithmetic(bench)).eval()
    examiner = Examiner(model, checkpoints.load_tokenizer(bench.dense_folder), settings.tasks_batch_size)
    figures: dict[str, TaskFigure] = {}
    tasks = list(bench.tasks.values())
    for done, task in enumerate(tasks, start=1):
        found = examine(examiner, task, bench.recipe.seed)
        figures |= found
        metrics = {f"{each.metric}.{name}": each.value for name, each in found.items() if each.value is not None}
        yield Progress(stage="zero_shot", subject=subject, step=done, steps=len(tasks), metrics=metrics)
    if any(task.name == PAPER_ZERO_SHOT for task in settings.tasks):
        figures[PAPER_ZERO_SHOT] = mean_figure(figures)
    if examiner.truncated:
        yield Notice(
            message=f"{examiner.truncated} requests were longer than the model's context of {examiner.max_length} "
            "tokens and lost their beginning"
        )
    return Outcome(measurements={subject: Measurement(tasks=figures)})

"""Rows to compare, as jobs leave them."""

from __future__ import annotations

from typing import Any

from workers.comparison.row import TableRow
from workers.contracts.results import Measurement, PerplexityProtocol, Results, Speed, StageMemory
from workers.contracts.tasks import TaskFigure

DIGEST = "a" * 64


def protocol(**changes: Any) -> PerplexityProtocol:
    plain = {
        "sequence_length": 64,
        "windows": 12,
        "tokens": 800,
        "batch_size": 8,
        "dtype": "float32",
        "arithmetic": "float32",
        "text_sha256": "0" * 64,
        **changes,
    }
    return PerplexityProtocol.model_validate(plain)


def speed(tokens_per_second: float, **changes: Any) -> Speed:
    plain = {
        "generation_tokens_per_second": tokens_per_second,
        "slowest": 1.0,
        "fastest": 2.0,
        "batch_size": 8,
        "new_tokens": 32,
        "rounds": 3,
        "threads": 1,
        "device": "cpu",
        "machine": "one machine",
        **changes,
    }
    return Speed.model_validate(plain)


def score(value: float, **changes: Any) -> TaskFigure:
    plain = {"metric": "acc", "value": value, "stderr": 0.02, "n": 100, "num_fewshot": 0, "version": "1",
             "source": "a file", **changes}  # fmt: skip
    return TaskFigure.model_validate(plain)


def measured(parameters: int, perplexity: float | None, **changes: Any) -> Measurement:
    plain = {
        "parameters": parameters,
        "bytes": 4 * parameters,
        "perplexity": {"valid": perplexity},
        "perplexity_protocol": {"valid": protocol()},
        **changes,
    }
    return Measurement.model_validate(plain)


def dense(**changes: Any) -> Measurement:
    return measured(2000, 10.0, **{"weights_digest": DIGEST, **changes})


def results(**parts: Any) -> Results:
    memory = {"regularize": StageMemory(measured_bytes=5000), "evaluate": StageMemory(measured_bytes=700)}
    plain: dict[str, Any] = {"dense": dense(), "pruned": measured(1500, 30.0), "recovered": measured(1500, 12.0)}
    return Results(**{**plain, "memory": memory, **parts})


def row(name: str = "ours", method: dict[str, Any] | None = None, **changes: Any) -> TableRow:
    recipe = {
        "model": {"source": "owner/name"},
        "method": method or {"kind": "dress", "preset": "paper", "ratio": 0.25},
        "data": {"name": "wikitext2", "samples": 40, "split": "3:1"},
        "resources": {"gpus": 0, "cpus": 1},
        "seed": 0,
        **changes.pop("recipe", {}),
    }
    plain = {"name": name, "status": "succeeded", "recipe": recipe, "results": results(), "seconds": 12.0, **changes}
    return TableRow.model_validate(plain)

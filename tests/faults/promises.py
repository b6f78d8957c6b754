"""The checker: holds a campaign's history against a model of what the queue promises. A function of the history alone.

- lost: what was answered 201 exists, and ended as its owner wished; what a client was told stays true;
- duplicate: one key, one job; one success at most for each job; legal steps only, and none out of a final state;
- gap: events are numbered 1..n; of each attempt those committed are the first so many that it told, in their order;
- zombie: nothing is committed of an attempt after its end;
- artifact: a file is told of once it is stored, and is whole at the end;
- lease: a lease that is in force is not taken;
- stuck: all has ended at the end; no recovery takes longer than five minutes;
- leaked: no process is left.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from tests.faults.history import Fact
from tests.faults.staged_pipeline import STAGES

LONGEST_SECONDS = 300.0
FINAL = frozenset({"succeeded", "failed", "cancelled"})
STEPS = {
    "queued": {"running", "paused", "cancelled"},
    "running": {"queued", "pausing", "cancelling", "succeeded", "failed"},
    "pausing": {"running", "paused", "cancelling", "succeeded", "failed"},
    "paused": {"queued", "cancelled"},
    "cancelling": {"cancelled"},
}
"""The model's own table: the service's may have a bug. Out of a final state leads an owner's wish for another try."""
SUCCEEDED, FAILED = "pipeline_succeeded", "pipeline_failed"
"""The last words of an attempt."""
_OF_QUEUE = ("attempt_", "job_")
_ENDS = frozenset({"job_succeeded", "job_failed", "job_cancelled", "job_paused", "job_requeued"})
"""With an attempt's id, they say that it has ended."""


class Unfinished(Exception):
    """The history breaks off: nothing can be said."""


@dataclass
class Verdict:
    """What became of the promises, and what was seen on the way."""

    broken: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    """By kind, all that were injected."""
    counted: Counter[str] = field(default_factory=Counter)
    """By kind, those that hit an attempt that ran."""
    stages: Counter[str] = field(default_factory=Counter)
    """Where attempts stood that were hit alone."""
    recoveries: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """By kind, seconds from a fault to the next that was committed of a job that it hit."""
    jobs: int = 0
    attempts: int = 0
    events: int = 0
    adoptions: int = 0
    replays: int = 0
    """Posts that were answered with an earlier answer."""
    least_in_flight: int | None = None


def judged(history: Iterable[Fact], *, is_timed: bool = True) -> Verdict:
    """The verdict on a whole history. Where the database's clock was stepped, recoveries are not timed.

    Raises:
        Unfinished: it has no end.
    """
    seen = Seen(history)
    verdict = Verdict(jobs=len(seen.jobs), attempts=len(seen.attempts))
    for rule in (_lost, _duplicate, _repeated, _gap, _zombie, _artifact, _lease, _stuck, _leaked):
        verdict.broken += rule(seen)
    verdict.events = sum(len(events) for events in seen.events.values())
    verdict.adoptions = sum(event["type"] == "attempt_adopted" for events in seen.events.values() for event in events)
    verdict.replays = sum(fact["replayed"] for fact in seen.of["posted"])
    _count(seen, verdict, is_timed)
    return verdict


class Seen:
    """A history, sorted out."""

    def __init__(self, history: Iterable[Fact]) -> None:
        self.of: dict[str, list[Fact]] = defaultdict(list)
        for place, fact in enumerate(history):
            self.of[fact["what"]].append({**fact, "place": place})
        if not self.of["end"]:
            raise Unfinished("the history has no end; run the slice again")
        rows: dict[str, list[Fact]] = defaultdict(list)
        for row in self.of["row"]:
            rows[row["table"]].append(row)
        self.jobs = {row["id"]: row for row in rows["jobs"]}
        self.attempts = {row["id"]: row for row in rows["attempts"]}
        self.artifacts = rows["artifacts"]
        self.events: dict[str, list[Fact]] = defaultdict(list)
        for row in sorted(rows["events"], key=lambda row: int(row["number"])):
            self.events[row["job_id"]].append(row)

    @cached_property
    def wishes(self) -> dict[str, set[str]]:
        """What owners asked to become of their jobs, by job."""
        found: dict[str, set[str]] = defaultdict(set)
        for fact in self.of["wish"]:
            found[fact["job"]].add(fact["verb"])
        return found

    @cached_property
    def told(self) -> dict[str, list[Fact]]:
        """What each attempt's worker told, in order."""
        found: dict[str, list[Fact]] = defaultdict(list)
        for fact in self.of["told"]:
            found[fact["attempt"]].append(fact)
        return found

    @cached_property
    def committed(self) -> dict[str, list[Fact]]:
        """What is committed of what each attempt told, in order."""
        found: dict[str, list[Fact]] = defaultdict(list)
        for events in self.events.values():
            for event in events:
                if event["attempt_id"] is not None and not event["type"].startswith(_OF_QUEUE):
                    found[event["attempt_id"]].append(event)
        return found


def _lost(seen: Seen) -> Iterator[str]:
    for fact in seen.of["posted"]:
        if fact["job"] not in seen.jobs:
            yield f"lost: {fact['job']} was answered 201 and is not there"
    granted = {
        fact["job"]: fact["verb"]
        for fact in seen.of["granted"]
        if fact["verb"] in ("cancel", "retry") and fact["status"] == 200
    }
    for job_id, job in seen.jobs.items():
        if job["status"] == "failed":
            yield f"lost: {job_id} failed ({job['error_code']}), though every fault passes"
        elif job["status"] == "cancelled" and "cancel" not in seen.wishes[job_id]:
            yield f"lost: {job_id} was cancelled, which nobody wished"
        elif job_id in granted and (granted[job_id] == "cancel") != (job["status"] == "cancelled"):
            yield f"lost: {job_id} is {job['status']}, though its owner was granted: {granted[job_id]}"
    for fact in seen.of["seen"]:
        job = seen.jobs.get(fact["job"], {"status": "missing"})
        if fact["status"] in FINAL and job["status"] != fact["status"]:
            yield f"lost: {fact['job']} is {job['status']}, though its owner was told {fact['status']}"


def _duplicate(seen: Seen) -> Iterator[str]:
    by_key: dict[str, set[str]] = defaultdict(set)
    for job_id, job in seen.jobs.items():
        by_key[job["metadata_"]["key"]].add(job_id)
    for key, jobs in by_key.items():
        if len(jobs) > 1:
            yield f"duplicate: the key {key} made {len(jobs)} jobs"
    wanted = {fact["key"]: fact["seed"] for fact in seen.of["post"]}
    for job_id, job in seen.jobs.items():
        if job["recipe"]["seed"] != wanted.get(job["metadata_"]["key"]):
            yield f"duplicate: {job_id} is not what was posted under its key"
        if job["status"] == "succeeded" and job["results"]["pruned"]["parameters"] != job["recipe"]["seed"]:
            yield f"duplicate: {job_id} has the results of another job"


def _repeated(seen: Seen) -> Iterator[str]:
    steps = [audit for audit in seen.of["audit"] if audit["change"] == "status"]
    successes = Counter(audit["subject"] for audit in steps if audit["after"] == "succeeded")
    for job_id, events in seen.events.items():
        # An attempt may succeed whose job was told to cancel, and another one after a retry: that is no second success.
        told = sum(event["type"] == "job_succeeded" for event in events)
        if successes[job_id] > 1 or told > 1:
            yield f"duplicate: {job_id} succeeded {max(successes[job_id], told)} times"
    for step in steps:
        is_retry = (step["before"], step["after"]) == ("cancelled", "queued") and "retry" in seen.wishes[
            step["subject"]
        ]
        if step["after"] not in STEPS.get(step["before"], set()) and not is_retry:
            yield f"duplicate: {step['subject']} went from {step['before']} to {step['after']}"


def _gap(seen: Seen) -> Iterator[str]:
    for job_id, job in seen.jobs.items():
        numbers = [event["number"] for event in seen.events[job_id]]
        if numbers != list(range(1, len(numbers) + 1)) or job["last_event"] != len(numbers):
            yield f"gap: the events of {job_id} are numbered {numbers}, the last said to be {job['last_event']}"
    for attempt_id, attempt in seen.attempts.items():
        told = [_gist(fact) for fact in seen.told[attempt_id]]
        committed = [_gist({**event["body"], "type": event["type"]}) for event in seen.committed[attempt_id]]
        if committed != told[: len(committed)]:
            place = next((n for n, pair in enumerate(zip(committed, told, strict=False)) if pair[0] != pair[1]), "end")
            yield f"gap: what is committed of {attempt_id} is not what it told first, from {place} on"
        if attempt["last_sequence"] != len(committed):
            yield f"gap: {attempt_id} is said to have {attempt['last_sequence']} events, and has {len(committed)}"
        if attempt["outcome"] == "succeeded" and (not committed or committed[-1]["type"] != SUCCEEDED):
            yield f"gap: {attempt_id} succeeded without saying so"


def _gist(told: Fact) -> Fact:
    """What tells one event from another; see `staged_pipeline.gist`."""
    named = {name: told[name] for name in ("type", "stage", "step", "code") if told.get(name) is not None}
    files = [file["sha256"] if isinstance(file, dict) else file for file in told.get("files") or []]
    return named | ({"files": files} if files else {})


def _zombie(seen: Seen) -> Iterator[str]:
    for job_id, events in seen.events.items():
        ended: set[str] = set()
        for event in events:
            if event["attempt_id"] in ended:
                yield f"zombie: {event['type']} (event {event['number']} of {job_id}) came after its attempt's end"
            if event["attempt_id"] is not None and event["type"] in _ENDS:
                ended.add(event["attempt_id"])
        begun = [event["attempt_id"] for event in events if event["type"] == "attempt_started"]
        if unended := set(begun[:-1]) - ended:
            yield f"zombie: {job_id} has attempts beside each other: {sorted(unended)}"
    for audit in seen.of["audit"]:
        if audit["change"] == "outcome" and audit["before"] is not None:
            yield f"zombie: {audit['subject']} was {audit['before']} and became {audit['after']}"
        elif audit["change"] in ("event_edited", "event_removed"):
            yield f"zombie: an event of {audit['subject']} was changed afterwards ({audit['before']})"


def _artifact(seen: Seen) -> Iterator[str]:
    there = {fact["sha256"]: fact for fact in seen.of["file"]}
    stored: dict[str, set[str]] = defaultdict(set)
    for fact in sorted((*seen.of["stored"], *seen.of["found"], *seen.of["told"]), key=lambda fact: int(fact["place"])):
        if fact["what"] != "told":
            stored[fact["attempt"]] |= set(fact["files"])
        elif missing := set(fact.get("files", ())) - stored[fact["attempt"]]:
            yield f"artifact: {fact['attempt']} told of {sorted(missing)} before it was stored"
    for row in seen.artifacts:
        file = there.get(row["sha256"])
        if file is None:
            yield f"artifact: {row['path']} of {row['job_id']} is not in the store"
        elif (file["digest"], file["size_bytes"]) != (row["sha256"], row["size_bytes"]):
            yield f"artifact: {row['path']} of {row['job_id']} is damaged"
    named = Counter(row["job_id"] for row in seen.artifacts)
    for job_id, job in seen.jobs.items():
        if job["status"] == "succeeded" and named[job_id] != len(STAGES):
            yield f"artifact: {job_id} succeeded with {named[job_id]} files"


def _lease(seen: Seen) -> Iterator[str]:
    for audit in seen.of["audit"]:
        if audit["change"] == "lease_taken" and audit["until"] > audit["moment"]:
            left = audit["until"] - audit["moment"]
            yield f"lease: {audit['after']} took {audit['subject']} from {audit['before']}, {left:.3f} s too soon"


def _stuck(seen: Seen) -> Iterator[str]:
    for job_id, job in seen.jobs.items():
        if job["status"] not in FINAL:
            yield f"stuck: {job_id} is {job['status']} at the end"
    for attempt_id, attempt in seen.attempts.items():
        if attempt["outcome"] is None:
            yield f"stuck: {attempt_id} has not ended"


def _leaked(seen: Seen) -> Iterator[str]:
    end = seen.of["end"][-1]
    if end["workers"]:
        yield f"leaked: workers of {end['workers']} were left on the node"
    if end["processes"]:
        yield f"leaked: {len(end['processes'])} processes lived on after the service was stopped"


def _count(seen: Seen, verdict: Verdict, is_timed: bool) -> None:
    """Count the faults, and time the recoveries."""
    over = {f"job_{status}" for status in FINAL}
    ended_at = {
        job_id: event["moment"] for job_id, events in seen.events.items() for event in events if event["type"] in over
    }
    for fault in seen.of["fault"]:
        kind = fault["kind"]
        verdict.faults[kind] += 1
        hit = [job for job in _hit(seen, fault) if ended_at.get(job, float("inf")) > fault["at"] or not is_timed]
        if not hit:
            continue
        verdict.counted[kind] += 1
        verdict.least_in_flight = min(fault["in_flight"], verdict.least_in_flight or fault["in_flight"])
        if len(fault["stages"]) == 1:
            verdict.stages[str(fault["stages"][0] or "no stage yet")] += 1
        for job_id in hit if is_timed else ():
            seconds = _recovery_seconds(seen, fault, job_id)
            if seconds is not None:
                verdict.recoveries[kind].append(seconds)
            if seconds is None or seconds > LONGEST_SECONDS:
                verdict.broken.append(f"stuck: {job_id} did not recover from {kind} within {LONGEST_SECONDS:.0f} s")


def _hit(seen: Seen, fault: Fact) -> list[str]:
    """The jobs that a fault hit. A full disk hits those attempts that say so before it is put right, or just after."""
    if fault["kind"] != "fill_disk":
        return list(fault["jobs"])
    pairs = zip(fault["jobs"], fault["attempts"], strict=True)
    return [job for job, attempt in pairs if any(told["type"] == FAILED for told in seen.told[attempt])]


def _recovery_seconds(seen: Seen, fault: Fact, job_id: str) -> float | None:
    """Until the job got on: by a new attempt where the old one cannot go on, or by its end; else by any event."""
    for event in seen.events[job_id]:
        if event["moment"] > fault["at"] and (
            not fault["ends_attempt"] or event["type"] == "attempt_started" or event["type"] in _ENDS - {"job_requeued"}
        ):
            return float(event["moment"] - fault["at"])
    return None

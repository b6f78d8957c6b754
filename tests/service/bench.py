"""A dispatcher with the inline runner, its database, and what tests ask of them."""

from pathlib import Path
from typing import Any

from sqlalchemy import update

from service import events, jobs, queue, searches
from service.database import tables
from service.database.clock import database_now
from service.database.session import Database
from service.database.tables import Job
from service.dispatch.dispatcher import Dispatcher
from service.dispatch.inline_runner import InlineRunner
from service.settings import Settings
from tests.service.deadlines import eventually
from workers.contracts.recipe import Recipe
from workers.contracts.search import Search
from workers.local_store import LocalStore

PIPELINES = "tests.service.torchfree_pipelines"
ENGINES = "tests.service.torchfree_engines"


class Bench:
    """A dispatcher, its database and its runner."""

    def __init__(self, database: Database, settings: Settings, folder: Path) -> None:
        self.database = database
        self.settings = settings
        self.folder = folder
        self.runner = InlineRunner(cpus=2)

    def dispatcher(self, pipeline: str, engine: str = "paced") -> Dispatcher:
        store = LocalStore(self.settings.state_dir / "artifacts")
        names = {"pipeline": f"{PIPELINES}:{pipeline}", "search_engine": f"{ENGINES}:{engine}"}
        return Dispatcher(self.database, self.runner, store, self.settings.model_copy(update=names))

    def submit(self, recipe: Recipe, **resources: int) -> str:
        changed = recipe.model_copy(update={"resources": recipe.resources.model_copy(update=resources)})
        with self.database.writing() as session:
            return queue.enqueue(session, recipe=changed, metadata={}, labels={}, priority=0).id

    def submit_search(self, search: Search) -> str:
        recipe = search.recipe_at(next(search.probes())[1])
        with self.database.writing() as session:
            return searches.submit(session, search=search, recipe=recipe, metadata={}, labels={}, priority=0).id

    def job(self, job_id: str) -> Job:
        """A job, or a search's row in the queue."""
        with self.database.reading() as session:
            return session.get_one(Job, job_id)

    def trials(self, search_id: str) -> list[tables.Trial]:
        with self.database.reading() as session:
            return searches.trials(session, search_id, limit=1000)[0]

    def outcomes(self, job_id: str) -> list[str | None]:
        with self.database.reading() as session:
            return [attempt.outcome for attempt in jobs.attempts(session, job_id)]

    def told(self, job_id: str) -> list[Any]:
        with self.database.reading() as session:
            found = events.listing(session, job_id, after=0, limit=10_000)
        assert [event.number for event in found] == list(range(1, len(found) + 1))
        return found

    def types(self, job_id: str) -> list[str]:
        return [event.type for event in self.told(job_id)]

    def until(self, job_id: str, status: str, dispatcher: Dispatcher) -> Job:
        eventually(lambda: self.job(job_id).status == status, dispatcher.tick)
        return self.job(job_id)

    def expire(self) -> None:
        with self.database.writing() as session:
            session.execute(update(Job).values(lease_expires_at=database_now() - 1))

"""Makes the app: routers, the error table, what surrounds requests, and what lives as long as the server."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware

from api import errors, openapi
from api.dependencies import Wiring, connect, ready
from api.middleware import KnownHosts, LargestBody, RequestName
from api.routes import artifacts, attempts, comparisons, datasets, events, health, jobs, plans, queue, searches, upkeep
from api.tail import Tail
from service import datasets as data_sets
from service.artifacts.stores import open_store
from service.database.session import Database
from service.errors import ServiceError
from service.settings import Settings

log = logging.getLogger(__name__)

_DESCRIPTION = """Structured pruning of large language models as durable jobs, and searches for the best way to prune.

Every route but `/healthz`, `/readyz` and `/openapi.json` wants `Authorization: Bearer KEY`. Errors are
`application/problem+json` (RFC 9457). Lists take `limit` and `after` and say `has_more`."""


def create_app(settings: Settings, hosts: Collection[str] | None = None) -> FastAPI:
    """The app for one deployment.

    Args:
        hosts: names that the Host header may say; None answers to any (behind a proxy that checks them).
    """
    database = Database(settings.database_url)
    tail = Tail(database)
    wiring = Wiring(settings, database, open_store(settings.artifacts_url), tail)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        try:
            await run_in_threadpool(ready, wiring)
            await run_in_threadpool(data_sets.sweep, database, wiring.store.uploads)
        except (ServiceError, SQLAlchemyError) as error:
            # Serve nevertheless: /readyz says what is missing and looks again each time it is asked.
            log.warning("not ready: %s", error)
        yield
        tail.close()
        await run_in_threadpool(database.dispose)

    around = [Middleware(RequestName)]
    if hosts is not None:
        around.append(Middleware(KnownHosts, hosts=hosts))
    app = FastAPI(
        title="DReSS",
        version=version("dress-service"),
        description=_DESCRIPTION,
        lifespan=lifespan,
        middleware=[*around, Middleware(LargestBody, streamed=[datasets.router.prefix])],
        docs_url=None,  # the built-in pages load scripts from a CDN
        redoc_url=None,
        redirect_slashes=False,
    )
    connect(app, wiring)
    errors.register(app)
    for routes in (jobs, plans, comparisons, searches, queue, upkeep, attempts, events, artifacts, datasets, health):
        app.include_router(routes.router)
    app.openapi = lambda: openapi.describe(app)  # type: ignore[method-assign]  # FastAPI's own way of extending it
    return app

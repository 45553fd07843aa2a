"""Puts the review desk together: pages, API and operations over one queue."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from desk import api, operations, pages, sign_in, statistics, suppressing, work
from desk.context import DeskContext
from desk.errors import add_error_pages
from desk.middleware import add_middleware
from desk.rendering import FOLDER
from desk.webhooks import WebhookSender

TITLE = "Nightwarden desk"


def create_app(context: DeskContext) -> FastAPI:
    """Give the desk's application; it tells webhooks of changes for as long as it runs.

    Raises:
        SettingsError: if there are webhooks, and no secret to sign with.
    """
    sender = WebhookSender(context)

    @asynccontextmanager
    async def run(_app: FastAPI) -> AsyncIterator[None]:
        with sender.running():
            yield

    app = FastAPI(title=TITLE, lifespan=run, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.context = context
    add_middleware(app, context.settings)
    operations.add_request_metrics(app)
    add_error_pages(app)
    app.mount("/static", StaticFiles(directory=FOLDER / "static"), name="static")
    for module in (sign_in, pages, work, suppressing, statistics, api, operations):
        app.include_router(module.router)
    return app

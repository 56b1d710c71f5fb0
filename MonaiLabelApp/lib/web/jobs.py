"""Addresses of background jobs: /jobs/."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter

if TYPE_CHECKING:
    from MonaiLabelApp.lib.app import FM3DApp


def job_routes(app: FM3DApp) -> APIRouter:
    """Watch and cancel."""
    routes = APIRouter(prefix="/jobs", tags=["Jobs"])

    @routes.get("/{job_id}", summary="Where a job stands, and its result")
    async def look(job_id: str) -> dict[str, Any]:
        return app.jobs.find(job_id).to_dict()

    @routes.delete("/{job_id}", summary="Cancel a job")
    async def cancel(job_id: str) -> dict[str, Any]:
        job = app.jobs.find(job_id)
        job.cancel()
        return job.to_dict()

    return routes

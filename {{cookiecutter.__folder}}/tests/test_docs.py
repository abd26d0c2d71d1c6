"""The names of operations in the OpenAPI document, after which generated clients name their functions."""

import httpx2
import pytest
from fastapi import APIRouter

from app.config import ServiceSettings
from app.docs import DuplicateOperationIdError
from app.main import create_app


async def test_an_operation_has_the_name_of_its_handler(client: httpx2.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert paths["/health/live"]["get"]["operationId"] == "live"
    assert paths["/things"]["post"]["operationId"] == "create_thing"


@pytest.mark.parametrize("operation_id", [None, "take"])
async def test_two_handlers_with_one_name_are_refused_at_start_up(
    settings: ServiceSettings, operation_id: str | None
) -> None:
    """The error names both. With an id of its own, a route may have any handler."""
    app = create_app(settings)
    first, second = APIRouter(prefix="/first"), APIRouter(prefix="/second")

    @first.get("/{number}")
    async def take_one(number: int) -> None: ...

    @second.get("/{number}", name="take_one", operation_id=operation_id)
    async def take_another(number: int) -> None: ...

    @second.get("/hidden", name="take_one", include_in_schema=False)
    async def take_none() -> None: ...

    app.include_router(first)
    app.include_router(second)
    if operation_id is None:
        with pytest.raises(DuplicateOperationIdError, match="take_one: GET /first/.* and GET /second/.* have the same"):
            async with app.router.lifespan_context(app):
                pass
    else:
        async with app.router.lifespan_context(app):
            pass


async def test_a_handler_of_several_methods_needs_a_route_for_each(settings: ServiceSettings) -> None:
    app = create_app(settings)

    @app.api_route("/both", methods=["GET", "POST"])
    async def both() -> None: ...

    with pytest.raises(DuplicateOperationIdError, match="operation id both: GET /both .* and POST /both"):
        async with app.router.lifespan_context(app):
            pass

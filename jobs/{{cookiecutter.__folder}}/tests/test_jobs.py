"""Jobs and the worker, under faults."""

import asyncio
import subprocess
import sys

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.jobs import add_job, do_jobs
from app.startup import open_database
from tests.commands import environment
from tests.example import Thing

_WORKER = """
from uuid import UUID
from app.scripts import worker
from tests.example import Thing

async def welcome(session, thing_id):
    thing = await session.get_one(Thing, UUID(thing_id))
    thing.name = f"{thing.name}, welcome"

worker.HANDLERS["welcome"] = welcome
worker.main()
"""
_ARGUMENTS = text("SELECT convert_from(payload, 'UTF8') FROM pgqueuer")


async def test_there_is_a_job_if_and_only_if_its_transaction_is_committed(session: AsyncSession) -> None:
    await add_job(session, "welcome", thing_id=1)
    await session.rollback()
    assert (await session.scalars(_ARGUMENTS)).all() == []
    await add_job(session, "welcome", thing_id=2)
    await session.commit()
    assert (await session.scalars(_ARGUMENTS)).all() == ['{"thing_id": 2}']


async def test_a_failed_job_writes_nothing_is_retried_later_and_then_kept(
    settings: Settings, session: AsyncSession
) -> None:
    stop = asyncio.Event()

    async def fail(own: AsyncSession) -> None:
        own.add(Thing(email="ada@example.com", name="Ada"))
        await own.flush()
        stop.set()
        raise ValueError

    await add_job(session, "fail")
    await session.commit()
    async with open_database(settings) as database:
        for attempts, delay in ((1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (5, None)):
            stop.clear()
            await do_jobs(database, {"fail": fail}, stop)
            job = await session.execute(
                text("SELECT status, attempts, extract(epoch FROM execute_after - updated)::int FROM pgqueuer")
            )
            assert tuple(job.one())[: 3 if delay else 2] == (("queued", attempts, delay) if delay else ("failed", 5))
            await session.execute(text("UPDATE pgqueuer SET execute_after = 'epoch'"))  # it is due
            await session.commit()
    assert (await session.scalars(select(Thing))).all() == []


async def test_a_job_that_another_worker_has_done_meanwhile_is_rolled_back(
    settings: Settings, session: AsyncSession
) -> None:
    stop = asyncio.Event()

    async def add(own: AsyncSession) -> None:
        own.add(Thing(email="ada@example.com", name="Ada"))
        await session.execute(text("DELETE FROM pgqueuer"))
        await session.commit()
        stop.set()

    await add_job(session, "add")
    await session.commit()
    async with open_database(settings) as database:
        await do_jobs(database, {"add": add}, stop)
    assert (await session.scalars(select(Thing))).all() == []


async def test_the_job_of_a_killed_worker_is_done_by_another(database_url: str, session: AsyncSession) -> None:
    ada = Thing(email="ada@example.com", name="Ada")
    session.add(ada)
    await session.flush()
    await add_job(session, "welcome", thing_id=str(ada.id))
    await session.commit()
    await session.execute(select(Thing).with_for_update())  # the job waits for this row
    with _worker(database_url) as killed:
        await _logged(killed, "job begun")
        killed.kill()
    await session.execute(text("UPDATE pgqueuer SET heartbeat = 'epoch'"))  # instead of waiting 30 seconds
    await session.commit()
    with _worker(database_url) as worker:
        await _logged(worker, "job begun", "job done")
        worker.terminate()
        assert await asyncio.to_thread(worker.wait, 30) == 0
    assert (await session.scalars(select(Thing.name))).all() == ["Ada, welcome"]
    assert (await session.scalars(text("SELECT id FROM pgqueuer"))).all() == []


def _worker(database_url: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", _WORKER]
    return subprocess.Popen(command, cwd="/", env=environment(database_url), stderr=subprocess.PIPE, text=True)


async def _logged(worker: "subprocess.Popen[str]", *events: str) -> None:
    assert worker.stderr is not None
    for event in events:
        assert event in await asyncio.to_thread(worker.stderr.readline)

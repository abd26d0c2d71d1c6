"""The generated service with one more route, which creates a user by ``session.add``."""

from dataclasses import fields

from app.dependencies import DbSession
from app.main import app
from app.users.models import User
from app.users.schemas import NewUser, UserOut

__all__ = ["app"]

_FIELDS = [field.name for field in fields(UserOut)]  # an earlier version has others


@app.post("/added", status_code=201)
async def add_user(new: NewUser, session: DbSession) -> UserOut:
    user = User(email=new.email, name=new.name)
    session.add(user)
    await session.flush()
    return UserOut(*(getattr(user, name) for name in _FIELDS))

"""The generated service with one more route, which creates a user by ``session.add``."""

from app.dependencies import DbSession
from app.main import app
from app.users.models import User
from app.users.schemas import NewUser, UserOut

__all__ = ["app"]


@app.post("/added", status_code=201)
async def add_user(new: NewUser, session: DbSession) -> UserOut:
    user = User(email=new.email, name=new.name)
    session.add(user)
    await session.flush()
    return UserOut(user.id, user.email, user.name, user.created_at, user.updated_at)

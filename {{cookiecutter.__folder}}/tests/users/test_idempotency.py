"""Creating a user with an Idempotency-Key."""

import httpx2


async def test_a_repeated_request_with_its_key_is_the_first_answer_even_after_a_change(
    client: httpx2.AsyncClient,
) -> None:
    async def post(name: str = "Ada") -> httpx2.Response:
        body = {"email": "ada@example.com", "name": name}
        return await client.post("/users", json=body, headers={"Idempotency-Key": "k"})

    first = await post()
    address = first.headers["Location"]
    for method, body in (("PATCH", {"name": "Countess"}), ("DELETE", None)):
        assert (await client.request(method, address, json=body)).is_success
        again = await post()
        assert (again.status_code, again.headers["Location"], again.content) == (201, address, first.content)
    assert (await post("Eve")).status_code == 422
    assert (await client.get("/users")).json()["items"] == []


async def test_a_key_whose_request_was_a_409_is_free(client: httpx2.AsyncClient) -> None:
    await client.post("/users", json={"email": "ada@example.com", "name": "Ada"})
    headers = {"Idempotency-Key": "k"}
    taken = await client.post("/users", json={"email": "ada@example.com", "name": "Eve"}, headers=headers)
    assert taken.status_code == 409
    free = await client.post("/users", json={"email": "eve@example.com", "name": "Eve"}, headers=headers)
    assert free.status_code == 201


async def test_a_repeated_request_gets_the_etag_of_its_first_answer(client: httpx2.AsyncClient) -> None:
    """With it the client is told that the user has changed since."""
    headers = {"Idempotency-Key": "k"}
    body = {"email": "ada@example.com", "name": "Ada"}
    first = await client.post("/users", json=body, headers=headers)
    assert (await client.get(first.headers["Location"])).headers["ETag"] == first.headers["ETag"]
    await client.patch(first.headers["Location"], json={"name": "Countess"})
    again = await client.post("/users", json=body, headers=headers)
    assert (again.status_code, again.headers["ETag"]) == (201, first.headers["ETag"])
    change = await client.patch(
        first.headers["Location"], json={"name": "x"}, headers={"If-Match": again.headers["ETag"]}
    )
    assert change.status_code == 412

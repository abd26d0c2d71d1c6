"""httpx2 for the services of the tests, which speak plain HTTP: to load certificates takes 45 ms for each request."""

from functools import partial

import httpx2

__all__ = ["AsyncClient", "Client", "delete", "get", "patch", "post", "put"]

AsyncClient = partial(httpx2.AsyncClient, verify=False)
Client = partial(httpx2.Client, verify=False)
delete = partial(httpx2.delete, verify=False)
get = partial(httpx2.get, verify=False)
patch = partial(httpx2.patch, verify=False)
post = partial(httpx2.post, verify=False)
put = partial(httpx2.put, verify=False)

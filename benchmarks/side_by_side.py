"""Measures several variants of the service in one run, each in turn, and compares them with the first one."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NamedTuple

from benchmarks.load import Sample, best, measure, server
from benchmarks.project import Project

_USERS = 20_000


class Route(NamedTuple):
    """A measured route."""

    kind: str
    """Kind of request in `wrk.lua`."""
    path: str
    app: str = "service"
    """Application that is served."""


Samples = dict[str, dict[str, list[Sample]]]


def side_by_side(
    variants: Mapping[str, Project],
    routes: Mapping[str, Route],
    *,
    rounds: int,
    seconds: int,
    advance: Callable[[], Any],
) -> Samples:
    """Return the samples of each variant, by route.

    Two processes of the same code differ by up to 8 % for as long as they run, so each round starts new ones.
    """
    samples: Samples = {route: {name: [] for name in variants} for route in routes}
    for number in range(rounds):
        for name, route in routes.items():
            with ExitStack() as stack:
                running = {
                    variant: stack.enter_context(server(project, route.app)) for variant, project in variants.items()
                }
                for variant in _turns(list(variants), number):
                    variants[variant].seed(_USERS)  # each one meets the same table: rows that were changed are slower
                    measure(running[variant], route.path, 1, kind=route.kind, users=_USERS)
                    if route.kind == "delete":
                        variants[variant].seed(_USERS)
                    sample = measure(running[variant], route.path, seconds, kind=route.kind, users=_USERS)
                    samples[name][variant].append(sample)
                    advance()
    return samples


def table(samples: Samples, what: str) -> list[list[str]]:
    """Return a table of the best round of each variant, with its share of the first variant's."""
    first = next(iter(next(iter(samples.values()))))
    rows = [["route", what, "requests/s", f"of {first}", "CPU a request, µs", f"of {first}", "p99 ms"]]
    for route, by_variant in samples.items():
        base = best(by_variant[first])
        for name, taken in by_variant.items():
            of = best(taken)
            shares = replace(of, rate=of.rate / base.rate, cpu=of.cpu / base.cpu)
            figures = [f"{of.rate:.0f}", f"{shares.rate:.2f}", f"{of.cpu:.0f}", f"{shares.cpu:.2f}", f"{of.p99:.1f}"]
            rows.append([f"`{route}`", name, *figures])
    return rows


def _turns(names: list[str], number: int) -> list[str]:
    """Begin with another name each time, so that none always follows the same one."""
    first = number % len(names)
    return names[first:] + names[:first]

"""Which cluster and namespace a command is about, and its refusals as errors for a user."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from controller.cli.cluster import Cluster


@dataclass(frozen=True, slots=True)
class Place:
    """What -n and --context say."""

    namespace: str | None
    context: str | None

    @contextlib.contextmanager
    def cluster(self, namespace: str | None = None) -> Iterator[Cluster]:
        """A client; inside, what the API server refuses is a RefrainError. AccessError where there is no cluster."""
        from controller.cli.cluster import connect, told_error

        found = connect(self.namespace or namespace, self.context)
        with told_error(found):
            yield found


def with_place(function: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the flags, and a `place` made of them."""

    @click.option("-n", "--namespace", metavar="NAMESPACE", help="Where the cycle is.  [default: the context's]")
    @click.option("--context", metavar="CONTEXT", help="Of the kubeconfig.  [default: the current one]")
    @functools.wraps(function)
    def with_flags(*, namespace: str | None, context: str | None, **others: Any) -> None:
        function(place=Place(namespace, context), **others)

    return with_flags


NAME = click.argument("name", metavar="NAME")
YES = click.option("-y", "--yes", is_flag=True, help="Do not ask.")
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print the whole as JSON.")

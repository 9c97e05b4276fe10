"""`refrain cycle`: cycles on a cluster, by the current kubeconfig, for people who prefer one tool to kubectl.

    place.py      the flags -n and --context, and what the API server's refusals are called
    cluster.py    the client
    <command>.py  click commands; what they print is made by pure functions of tables.py, told.py and advice.py

This package is loaded by `refrain --help`: at the top of its command modules there is nothing heavy.
"""

from __future__ import annotations

import click

from controller.cli.changing import approve, delete, resume, retry, suspend
from controller.cli.creating import create
from controller.cli.gathering import gather
from controller.cli.logs import logs
from controller.cli.scheduling import schedule
from controller.cli.showing import list_, show
from controller.cli.watching import watch


class _InOrder(click.Group):
    """Commands in the order in which they are of use."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self.commands)


@click.group("cycle", cls=_InOrder, short_help="Create, follow and change cycles on a cluster.")
def command() -> None:
    """Create, follow and change the RetrainCycles of a Kubernetes namespace.

    It goes by the current kubeconfig, as kubectl does. docs/operate.md says what each condition means.
    """


for _one in (create, schedule, list_, show, watch, suspend, resume, retry, approve, delete, logs, gather):
    command.add_command(_one)

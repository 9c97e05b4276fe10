"""The `refrain` command. A file here per group of commands; each is imported only when it is called."""

from __future__ import annotations

import errno
import os
import signal
import sys
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from types import FrameType
from typing import Any

import click

from jobs import __version__
from jobs.contracts.errors import CtrlCError, OutputError, RefrainError, StoppedError
from jobs.contracts.stages import STAGES

_OTHERS = {
    "run": "Run a cycle's stages on this machine.",
    "result": "Say what a finished stage of a cycle gave back.",
    "plan": "Say what a cycle would do, and what it would take.",
    "ask": "Answer a question from the archive.",
    "chat": "Talk with the archive, question after question.",
    "serve": "Answer questions over HTTP, as OpenAI's API does.",
    "vllm": "Bring base model and adapter for a vLLM to serve.",
    "merge": "Merge an adapter into its base model.",
    "export": "Write an adapter with its model card, as PEFT reads it.",
    "shards": "Keep the newest train shards active.",
    "upload": "Copy mail or a model into a store.",
    "show": "Say where a mail went, and why; or print a chunk.",
    "log": "Check and export the assignments log.",
    "doctor": "Say what this machine has and lacks.",
    "completion": "Print the shell's completion script.",
}
"""Commands that are not stages, with the line that `refrain --help` gives them."""

COMMANDS = {row.name: row.summary for row in STAGES} | _OTHERS
"""Every command but those of other packages: `jobs.cli.<name>` holds a click command called `command`."""

ENTRY_POINT_GROUP = "refrain.commands"
"""Where another package, such as the controller, adds commands of its own."""


class _LazyGroup(click.Group):
    """A group that knows its commands' names and one-line helps without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *sorted(point.name for point in entry_points(group=ENTRY_POINT_GROUP))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            command: click.Command = import_module(f"jobs.cli.{cmd_name}").command
            return command
        for point in entry_points(group=ENTRY_POINT_GROUP, name=cmd_name):
            loaded: click.Command = point.load()
            return loaded
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it; an unknown name is refused with those that are like it."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            likely = get_close_matches(args[0], self.list_commands(ctx), n=1)
            if not likely:
                raise
            raise click.UsageError(f"{error.message} Did you mean {likely[0]}?", ctx) from None

    def invoke(self, ctx: click.Context) -> Any:
        """As click does it, but that it does not take a closed pipe for its own."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise _ReaderGone from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, COMMANDS.get(name) or self._short_help(ctx, name)) for name in self.list_commands(ctx)]
            )

    def _short_help(self, ctx: click.Context, name: str) -> str:
        command = self.get_command(ctx, name)
        return command.get_short_help_str() if command else ""


@click.command(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="refrain")
def cli() -> None:
    """Retrain a language model on a mail archive, again and again.

    Mail goes in at `parse`; each further stage reads what the ones before it wrote. Every
    stage works on plain files, and with --store on an archive in a folder or an S3 bucket.
    """


def main(args: list[str] | None = None) -> Any:
    """Run the command line and exit: the one place where errors become messages and exit codes."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        return cli.main(args=args, prog_name="refrain", standalone_mode=False) or 0
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("refrain: stopped: what has finished is kept, and the same command goes on from there", err=True)
        sys.exit(CtrlCError.exit_code)
    except _ReaderGone:  # quietly: whoever closed the pipe knows
        _forget_unwritten()
        sys.exit(128 + signal.SIGPIPE)
    except SystemExit:
        _forget_unwritten()
        raise
    except (_Stop, RefrainError, OSError) as error:
        told = error_told(error)
        if told is None or os.environ.get("REFRAIN_TRACEBACK"):
            raise
        click.echo(f"refrain: error: {told}", err=True)
        _forget_unwritten()
        sys.exit(told.exit_code)


class _ReaderGone(BaseException):
    """Who read our standard output has closed it. No Exception, as `_Stop`."""


class _Stop(BaseException):
    """Told to stop. No Exception, for libraries catch those (the S3 SDK takes any for a lost connection)."""


def _stop(_signal: int, _frame: FrameType | None) -> None:
    """End as for any other error: nothing half-written, no scratch files left, however often it is told."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Stop


def error_told(error: BaseException) -> RefrainError | None:
    """What a user is told; None for a defect, as any OSError is but of a report that does not fit on the disk."""
    if isinstance(error, _Stop):
        return StoppedError("told to stop", hint="the same command again does the rest")
    if isinstance(error, RefrainError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        return OutputError(f"cannot be written: {error.strerror}", where="standard output")
    return None


def _forget_unwritten() -> None:
    """Keep what standard output still holds from failing once more at exit, with another exit code."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

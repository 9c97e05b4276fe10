"""`refrain controller`, known to `refrain` by its entry point: nothing heavy is imported before it is called."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("controller", short_help="Run the Kubernetes operator.")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("/etc/refrain-controller/config.yaml"),
    show_default=True,
    help="Settings (controller/settings.py says which there are).",
)
@click.option("--health-port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="Serves /healthz.")
@click.option("--metrics-port", type=click.IntRange(0, 65535), default=9090, show_default=True, help="Serves /metrics.")
@click.option("--log-format", type=click.Choice(["json", "text"]), default="json", show_default=True)
@click.option("--verbose", is_flag=True, help="Tell each action.")
def command(*, config: Path, health_port: int, metrics_port: int, log_format: str, verbose: bool) -> None:
    """Run the operator: it turns the RetrainCycles of one namespace into Jobs, stage by stage.

    It goes by the pod's service account, or by the current kubeconfig; it holds no credentials of the store.
    """
    from controller.serving import serve

    serve(config, health_port=health_port, metrics_port=metrics_port, as_json=log_format == "json", verbose=verbose)

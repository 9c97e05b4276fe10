"""What the server counts, for Prometheus. No text of a question or of a mail is in it."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """All of them, in a registry of their own."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self.requests = Counter(
            "refrain_http_requests",
            "Requests by route and status, also of streams that end as no 200; 499: the client hung up.",
            ["route", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "refrain_http_request_seconds", "Until the last byte.", ["route"], buckets=_SECONDS, registry=registry
        )
        self.first_token = Histogram(
            "refrain_first_token_seconds",
            "From request to the first token, search included.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.search = Histogram(
            "refrain_search_seconds", "Of one search for sources.", buckets=_SECONDS, registry=registry
        )
        self.tokens = Counter(
            "refrain_tokens", "Read and written, by kind: prompt, completion.", ["kind"], registry=registry
        )
        self.answers = Counter(
            "refrain_answers",
            "By how they ended: stop, length, time, cancelled, failed.",
            ["reason"],
            registry=registry,
        )
        self.swaps = Counter(
            "refrain_adapter_swaps", "By outcome: done, already, failed.", ["outcome"], registry=registry
        )
        self.refreshes = Counter(
            "refrain_refreshes", "Looks for a newer index and record, by outcome.", ["outcome"], registry=registry
        )
        self.adapter = Gauge(
            "refrain_adapter_info", "1 for what is in service here.", ["adapter", "name"], registry=registry
        )
        self._watched = {
            name: Gauge(f"refrain_{name}", text, registry=registry)
            for name, text in (
                ("ready", "1 where /readyz says so."),
                ("index_passages", "That may be found."),
                ("requests_inside", "Requests that are being answered, or wait."),
                ("answers_active", "Answers that grow now."),
                ("answers_waiting", "Answers that wait for the model."),
            )
        }

    def watch(self, name: str, look: Callable[[], float]) -> None:
        """Have a gauge look for itself whenever it is asked."""
        self._watched[name].set_function(look)

    def in_service(self, digest: str, name: str) -> None:
        """Say which adapter is in service, and no other."""
        self.adapter.clear()
        self.adapter.labels(digest, name).set(1)

    def text(self) -> bytes:
        """As Prometheus reads it."""
        return generate_latest(self._registry)

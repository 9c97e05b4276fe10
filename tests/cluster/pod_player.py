"""One pod's life on a node that is played."""

from __future__ import annotations

import itertools
import os
import threading
import time
import traceback
import urllib.request
from collections.abc import Callable
from typing import TYPE_CHECKING

import urllib3
from cluster import pod_status
from cluster.api import ApiError
from cluster.outcomes import Play, PlayedContainer
from cluster.pod_process import CannotStartError, PodProcess

if TYPE_CHECKING:
    from cluster.api import Object
    from cluster.kubelet import Kubelet
    from cluster.pod_status import Exit

_RETRY_SECONDS = 1.0
_PROBE_SECONDS = 0.1
_AGAIN_SECONDS = 0.2
_RESTART_SECONDS = 0.5


class PodPlayer(threading.Thread):
    """One pod's life, in a thread of its own, which is also the parent of its process."""

    def __init__(self, kubelet: Kubelet, pod: Object, ip: str) -> None:
        super().__init__(name=f"pod {pod['metadata']['name']}", daemon=True)
        self.kubelet, self.pod, self.ip = kubelet, pod, ip
        self.name_, self.namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        self.rule = kubelet.rule_for(pod)
        self.container = self._new_container()
        self.deleted = threading.Event()
        self.abandoned = False
        """Nobody reports any more: the node is gone, or the pod."""
        self.grace_seconds = 0

    # ---- told by the watch

    def note(self, pod: Object) -> None:
        """What the API server has now."""
        if "deletionTimestamp" in pod["metadata"] and not self.abandoned:
            self.grace_seconds = pod["metadata"].get("deletionGracePeriodSeconds", 30)
            self.deleted.set()
            self.container.stop(self.grace_seconds)

    def abandon(self, *, kill: bool = True) -> None:
        self.abandoned = True
        self.deleted.set()
        if kill:
            self.container.kill()

    # ---- its own thread

    def run(self) -> None:
        try:
            self._live()
        except ApiError as error:
            if error.code not in (404, 409) and not self.abandoned:
                self.kubelet.errors.append(traceback.format_exc())
        except Exception:  # noqa: BLE001 - told at the test's end
            if not self.abandoned:
                self.kubelet.errors.append(traceback.format_exc())
            self.container.kill()

    def _live(self) -> None:
        last: Object | None = None
        while True:
            if not self._start(last):
                self._report(pod_status.never_ran(self.pod))
                break
            started = time.time()
            exited = self._run(started, last)
            finished = time.time() - self.kubelet.backdate_seconds
            if self.deleted.is_set() or not self._starts_again(exited):
                self._report(pod_status.ended(self.pod, exited, min(started, finished), finished))
                break
            last = pod_status.terminated(exited, started, finished)
            message = "back-off restarting failed container"
            self._report(pod_status.waiting(self.pod, "CrashLoopBackOff", message, last))
            if self.deleted.wait(_RESTART_SECONDS):
                self._report(pod_status.ended(self.pod, exited, min(started, finished), finished))
                break
            self.container = self._new_container()
        self.deleted.wait()
        self._remove()

    def _start(self, last: Object | None) -> bool:
        """Begin the container, however often that has to be tried; False where the pod is deleted before."""
        if not last:
            self._report(pod_status.waiting(self.pod))
        said = ""
        while not self.deleted.is_set():
            try:
                self.container.start(self.ip)
            except CannotStartError as error:
                reason = "ErrImagePull" if error.reason == "ImagePullBackOff" and not said else error.reason
                if reason != said:
                    self._report(pod_status.waiting(self.pod, reason, str(error)))
                said = reason
                self.deleted.wait(_RETRY_SECONDS)
            else:
                if self.deleted.is_set():  # in the meantime
                    self.container.kill() if self.abandoned else self.container.stop(self.grace_seconds)
                return True
        return False

    def _run(self, started: float, last: Object | None) -> Exit:
        """Until it ends; whether it is ready is reported when that changes."""
        probe = self._probe()
        was_ready: bool | None = None
        while True:
            ready = probe()
            if ready != was_ready:
                self._report(pod_status.running(self.pod, self.ip, started, ready=ready, last=last))
                was_ready = ready
            if exited := self.container.wait(_PROBE_SECONDS if probe != _always else None):
                return exited

    def _probe(self) -> Callable[[], bool]:
        """Says whether the container is ready."""
        if isinstance(self.rule, Play) and self.rule.ready is not None:
            ready = self.rule.ready
            return _always if ready else _never
        probe = self.pod["spec"]["containers"][0].get("readinessProbe", {}).get("httpGet")
        if not probe:
            return _always
        ports = {port.get("name"): port["containerPort"] for port in self.pod["spec"]["containers"][0].get("ports", [])}
        url = f"http://{self.ip}:{ports.get(probe['port'], probe['port'])}{probe.get('path', '/')}"
        return lambda: _answers(url)

    def _starts_again(self, exited: Exit) -> bool:
        policy = self.pod["spec"].get("restartPolicy", "Always")
        return policy == "Always" or (policy == "OnFailure" and exited.code != 0)

    def _new_container(self) -> PodProcess | PlayedContainer:
        if isinstance(self.rule, Play):
            return PlayedContainer(self.pod, self.rule)
        folder = self.kubelet.folder / self.namespace / self.name_
        folder.mkdir(parents=True, exist_ok=True)
        return PodProcess(self.kubelet.control_plane, self.pod, folder, {**self.kubelet.env, **self.rule.env})

    def _report(self, status: Object) -> None:
        body = {"metadata": {"uid": self.pod["metadata"]["uid"]}, "status": status}
        where, how = ("v1/Pod", self.name_, self.namespace), {"subresource": "status", "patch": "strategic"}
        self.pod = self._insist(lambda: self.kubelet.api.patch(*where, body, **how)) or self.pod

    def _remove(self) -> None:
        where, uid = ("v1/Pod", self.name_, self.namespace), self.pod["metadata"]["uid"]
        self._insist(lambda: self.kubelet.api.delete(*where, grace_seconds=0, uid=uid))

    def _insist(self, act: Callable[[], Object]) -> Object | None:
        """Until the API server has taken it: it may be down."""
        while not self.abandoned:
            try:
                return act()
            except ApiError as error:
                if error.code < 500 and error.code != 429:
                    raise
            except (OSError, urllib3.exceptions.HTTPError):
                pass
            time.sleep(_AGAIN_SECONDS)
        return None


def _always() -> bool:
    return True


def _never() -> bool:
    return False


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=1).close()
    except OSError:
        return False
    return True


_addresses = itertools.count(1)


def new_address() -> str:
    """A loopback address that no other pod of this machine's tests has."""
    number = os.getpid() & 0xFFFF
    return f"127.{number >> 8}.{number & 0xFF}.{next(_addresses) % 253 + 2}"

"""Releases of the chart in namespaces of their own, with mail and models that are small."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import yaml
from botocore.exceptions import BotoCoreError

from e2e import kube

if TYPE_CHECKING:
    from cluster.api import Object

VALUES = kube.ROOT / "examples" / "quick-start" / "values.yaml"
QUICK = {"minReadySeconds": 0}
"""Of tests to which it does not matter that two pods serve for a moment."""
OVER = ("Promoted", "NotPromoted", "Skipped", "Failed")


@dataclass
class Release:
    """A release called `refrain` in a namespace that enforces `restricted`, with an object store of its own."""

    namespace: str
    values: dict[str, Any] = field(default_factory=dict)
    key: str = ""
    """What clients have to send; empty where the values name no Secret with keys."""

    def install(self, *, new: bool = True) -> None:
        """With its namespace unless that is there, and the resource definitions unless they are."""
        if "refrain-crds" not in kube.helm("list", "--short"):
            kube.helm("install", "refrain-crds", kube.ROOT / "charts" / "refrain-crds")
        if new:
            kube.kubectl("create", "namespace", self.namespace)
            kube.kubectl("label", "namespace", self.namespace, "pod-security.kubernetes.io/enforce=restricted")
        self._helm("install")
        rollout = ["rollout", "status", "statefulset/refrain-store", "deployment/refrain-controller"]
        kube.kubectl(*rollout, "--namespace", self.namespace, "--timeout=5m")

    def upgrade(self, **values: Any) -> None:
        """With further values, without force."""
        self.values = self.values | values
        self._helm("upgrade")

    def helm(self, *arguments: object) -> str:
        return kube.helm(*arguments, "--namespace", self.namespace)

    def _helm(self, verb: str) -> None:
        inference = QUICK | self.values.get("inference", {})
        given = json.dumps({"image": {"registry": kube.REGISTRY}} | self.values | {"inference": inference})
        command = [verb, "refrain", kube.ROOT / "charts" / "refrain", "--values", VALUES, "--values", "-"]
        done = subprocess.run(
            [str(kube.programs.binary("helm")), *map(str, command), "--namespace", self.namespace],
            input=given,
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr

    def upload(self, *places: tuple[Path, str]) -> None:
        """Files and folders into the store, by `refrain upload`."""
        with self.store() as (address, keys):
            for path, url in places:
                command = [str(Path(sys.executable).with_name("refrain")), "upload", str(path), url]
                subprocess.run(command, env=os.environ | keys | {"AWS_ENDPOINT_URL_S3": address}, check=True)

    @contextlib.contextmanager
    def store(self) -> Iterator[tuple[str, dict[str, str]]]:
        """The store's address on this machine, and its credentials as variables."""
        secret = kube.get("secret", "refrain-store", self.namespace)["data"]
        keys = {name: b64decode(value).decode() for name, value in secret.items()}
        with kube.forwarded("refrain-store", 9000, self.namespace) as address:
            yield address, keys

    @contextlib.contextmanager
    def s3(self) -> Iterator[Any]:
        """A client of the store."""
        with self.store() as (address, keys):
            secret = keys["AWS_SECRET_ACCESS_KEY"]
            options = {"aws_access_key_id": keys["AWS_ACCESS_KEY_ID"], "region_name": "us-east-1"}
            yield boto3.client("s3", endpoint_url=address, aws_secret_access_key=secret, **options)

    def num_checkpoints(self, archive: str) -> int:
        """How many complete ones the cycle of the archive's name has by now; -1 where the store does not answer."""
        prefix = f"{archive}/cycles/{archive}/train/checkpoints/"
        try:
            with self.s3() as s3:
                found = s3.list_objects_v2(Bucket="refrain", Prefix=prefix).get("Contents", [])
        except (AssertionError, BotoCoreError):
            return -1
        return sum(one["Key"].endswith("/_COMPLETE.json") for one in found)

    def put(self, key: str, data: bytes) -> None:
        """Overwrite an object."""
        with self.s3() as s3:
            s3.put_object(Bucket="refrain", Key=key, Body=data)

    # ---- cycles

    def create(self, name: str, **spec: Any) -> None:
        """A small cycle."""
        kube.apply(cycle(name, **spec), self.namespace)

    def cycle(self, name: str) -> Object:
        return kube.get("retraincycle", name, self.namespace)

    def wait(self, name: str, state: str, seconds: float = 600) -> Object:
        """The cycle, once it is in that state; AssertionError with all that is known where it ends otherwise."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.cycle(name)
            now = found.get("status", {}).get("state")
            if now == state:
                return found
            if now in OVER or time.monotonic() > deadline:
                said = yaml.safe_dump(found.get("status"))
                raise AssertionError(f"{name} is {now}, not {state}\n{said}\n{kube.state_of_things(self.namespace)}")
            time.sleep(1)

    def running(self, name: str, stage: str) -> list[str]:
        """The pods of a cycle's stage that run, and are not on their way out."""
        pods = self.pods(f"refrain.dev/cycle={name},refrain.dev/stage={stage}")
        live = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
        return [pod["metadata"]["name"] for pod in live if pod["status"]["phase"] == "Running"]

    def pods(self, labels: str = "") -> list[Object]:
        return kube.items("pods", self.namespace, labels)

    # ---- what it serves

    def wait_inference(self, seconds: int = 600) -> None:
        kube.kubectl(
            *("rollout", "status", "deployment/refrain-inference"),
            *("--namespace", self.namespace, f"--timeout={seconds}s"),
        )

    def ask(self, question: str = "Which disk is to be replaced?") -> Object:
        """The whole answer, through the Service."""
        body = {"model": "refrain", "max_tokens": 4, "messages": [{"role": "user", "content": question}]}
        with kube.forwarded("refrain-inference", 80, self.namespace) as address:
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"}
            request = urllib.request.Request(f"{address}/v1/chat/completions", json.dumps(body).encode(), headers)
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)  # type: ignore[no-any-return]

    def served(self) -> str:
        """The digest of the adapter that answers."""
        return str(self.ask()["refrain"]["adapter"])


def cycle(name: str, **spec: Any) -> Object:
    """A cycle over the small mail and models, whose gate lets real gains of a model that knew nothing through."""
    small: Object = {
        "archive": "mail",
        "store": {
            "url": "s3://refrain",
            "endpoint": "http://refrain-store:9000",
            "secretRef": {"name": "refrain-store"},
        },
        "sources": [{"mbox": "s3://refrain/incoming/1.mbox"}],
        "model": {"base": "s3://refrain/models/base", "lora": {"rank": 4, "alpha": 8}},
        "split": {"ratios": {"train": 50, "val": 40, "test": 10}, "maxTokens": 256},
        "window": {"minNewMessages": 4},
        "training": {"epochs": 2, "batchSize": 4, "learningRate": 0.02, "precision": "fp32"},
        "evaluation": {"embeddingModel": "s3://refrain/models/embedder", "maxQueries": 2, "maxNewTokens": 4},
        "selection": {"strategy": "LowestLoss", "maxRetrainAttempts": 0},
        "promotion": {"gate": {"confidence": 0.9, "minThreads": 2}},
    }
    return {
        "apiVersion": "refrain.dev/v1alpha1",
        "kind": "RetrainCycle",
        "metadata": {"name": name},
        "spec": small | spec,
    }

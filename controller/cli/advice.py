"""What each reason of a condition or an Event means, and what to do. docs/operate.md's tables are made of it. Pure.

A test compares with the reasons in the code of the controller and of `select`: none is missing here.
"""

from __future__ import annotations

from collections.abc import Iterator

Advice = tuple[str, str]
"""What it means, and what to do; empty: nothing."""

_WITHDRAWN = "the former adapter is in service again"
_NEXT = "nothing: a success; the next cycle tries again"

GROUPS: dict[str, dict[str, Advice]] = {
    "Accepted: the spec was read": {
        "Accepted": ("the spec is followed as it stands", ""),
        "UnknownFields": (
            "a newer version wrote the cycle; the fields that the message names are passed over",
            "update the controller and its CRD, or leave the fields out",
        ),
        "InvalidSpec": ("the spec cannot be read", "mend what the message names, or update the controller"),
        "MailHostNotAllowed": (
            "a source is on an IMAP server that the controller gives no password to",
            "name one that the message lists, or add it to the controller's `mail.imapHosts`",
        ),
        "SecretNotAllowed": (
            "`spec.store.secretRef` names a Secret that the controller does not hand out",
            "name one that the message lists, or add it to the controller's `store.secrets`",
        ),
    },
    "Progressing: it goes on": {
        "Started": ("its turn has come", ""),
        "StageRunning": ("the stage's Job is there", "`refrain cycle logs NAME` shows what its pod says"),
        "AskingForResult": (
            (
                "a light pod asks the store: whether a stage had finished whose Job or last words are gone; or for "
                "the shares of an evaluation on several pods, which it puts together"
            ),
            "",
        ),
        "RollingOut": ("the inference Deployment is brought to the candidate", ""),
        "Recording": ("every inference pod answers with the candidate; the promotion is written down", ""),
    },
    "Progressing: it waits": {
        "Queued": ("another cycle of the archive comes first; the message names it", "wait, or resume that cycle"),
        "Retried": ("the retry is seen; the cycle waits for its turn", ""),
        "PodsLeft": (
            "a pod of the archive has yet to end, or a Job whose cycle is gone; two never work on one archive",
            "wait; a pod on a node that is gone: `kubectl delete pod POD --force`; a Job that stays: delete it",
        ),
        "Suspended": ("`spec.suspend` is true", "`refrain cycle resume NAME`"),
        "AwaitingApproval": (
            "`promotion.mode` is Manual, and the winner is found",
            "look at it with `refrain cycle show NAME`, then `refrain cycle approve NAME`",
        ),
        "InferenceMissing": (
            "the Deployment that the controller's `inference.deployment` names is not there",
            (
                "create it, or mend the setting; after `promotion.timeoutSeconds` the candidate is withheld, "
                "and another cycle is needed"
            ),
        ),
        "NoReplicas": (
            "the inference Deployment has 0 replicas: nothing can answer with the candidate",
            "scale it up; after `promotion.timeoutSeconds` the candidate is withheld, and another cycle is needed",
        ),
        "DeploymentRefused": (
            "the API server refuses to change the inference Deployment: an admission webhook, a policy, a right",
            (
                "do what the message says; it is tried again by itself; after `promotion.timeoutSeconds` "
                "the candidate is withheld, and another cycle is needed"
            ),
        ),
        "Admission": (
            "the stage's Job is suspended by Kueue or by a person",
            "wait for the queue: `kubectl get workloads`; or set the Job's `spec.suspend` to false",
        ),
        "Unschedulable": (
            "no node takes the stage's pod; the message has the scheduler's words",
            "add what is lacking; or delete the cycle and create one that asks for less in `spec.stages.STAGE`",
        ),
        "SchedulingGated": ("something holds the pod back from the scheduler", "see the pod's `schedulingGates`"),
        "SchedulerError": ("the scheduler failed over the pod", "see the scheduler's logs"),
        "QuotaExceeded": (
            "a ResourceQuota of the namespace refuses the stage's pod or Job",
            "raise the quota, or let something else end; it is tried again by itself, until the stage's deadline",
        ),
        "PodRefused": (
            "the API server refuses the stage's pod: an admission webhook, a policy, a LimitRange",
            "do what the message says; it is tried again by itself",
        ),
        "ImagePullFailed": (
            "the stage's image cannot be pulled",
            "check the name, the registry and `images.pullSecrets` in the controller's settings",
        ),
        "PodNotStarted": (
            "the container cannot be created: most often a Secret or a ConfigMap that it refers to is missing",
            "create what the message names",
        ),
    },
    "What has been reached": {
        "Trained": ("there are checkpoints", ""),
        "Evaluated": ("the checkpoints are scored", ""),
        "NotAllScored": (
            "the message names checkpoints whose pods failed for good; the winner is chosen from the others",
            "`refrain cycle logs NAME evaluate` may tell why, where the pods are still there",
        ),
        "Approved": ("a person has approved the candidate", ""),
    },
    "It has ended well": {
        "Promoted": ("the candidate is in service", ""),
        "NotPromoted": ("the incumbent stays", _NEXT),
        "Better": ("the candidate beats what was in service beyond doubt", ""),
        "NotGated": ("nothing was in service, or too little was there to compare: the best checkpoint wins", ""),
        "NotBetter": ("the candidate is not better beyond doubt", _NEXT),
        "GuardWorse": ("better by the chosen metric, worse by the one that guards it", _NEXT),
        "InsufficientEvidence": (
            "too few val threads to tell (`promotion.gate.minThreads`)",
            "nothing: a success; more mail brings more threads",
        ),
        "NoCandidate": (
            "no checkpoint reaches `selection.thresholds`",
            "look at the scores; where the thresholds ask too much, lower them in the next cycle",
        ),
        "SmallGain": ("the gain is below `selection.improvementThreshold`", _NEXT),
        "TooFewMessages": ("fewer new mails than `window.minNewMessages`", "nothing: the next cycle has them too"),
        "Superseded": ("a newer cycle of the archive has taken its sources", "nothing: `refrain cycle list`"),
        "ApprovalTimedOut": (
            "nobody approved within `promotion.approvalTimeoutSeconds`; the incumbent stays",
            "where the candidate is wanted after all, run another cycle",
        ),
    },
    "The candidate was withheld, or is being taken back": {
        "NotReady": (
            f"inference pods were not ready with it in `promotion.timeoutSeconds`; {_WITHDRAWN}",
            "see the pods' logs: memory, the model's files; or allow more time",
        ),
        "NoAnswer": (f"a pod was ready but did not answer the question in time; {_WITHDRAWN}", "see the pod's logs"),
        "WrongAdapter": (
            f"a pod answers with another adapter; {_WITHDRAWN}",
            "see whether its `REFRAIN_ADAPTER` comes from the pod template's annotation, and its logs",
        ),
        "NotLoaded": (f"a pod could not load it (mode Swap); {_WITHDRAWN}", "see the pod's logs, and its token"),
        "NoSpareCapacity": (
            f"there is no room for one more inference pod; {_WITHDRAWN}",
            "give it room, or set the controller's `inference.mode` to Swap",
        ),
        "RolledBackExternally": (
            (
                "somebody set the Deployment back: during the roll-out that stays; an Event, where the next promotion "
                "finds it: it comes back should the candidate be withheld"
            ),
            "nothing, where it was meant; otherwise run another cycle",
        ),
    },
    "It has failed": {
        "StageFailed": (
            "a stage ended with the error in the message",
            (
                "mend it, then `refrain cycle retry NAME`; a wrong spec needs another cycle; "
                "`refrain cycle logs NAME STAGE` has more"
            ),
        ),
        "DeadlineExceeded": (
            "a stage or the cycle took longer than its deadline",
            "`refrain cycle retry NAME` goes on; or another cycle with a larger `spec.stages.STAGE.deadlineSeconds`",
        ),
        "JobRefused": (
            (
                "the API server refuses the stage's Job: for good, or until the stage's deadline; "
                "while the cycle still runs it is tried again by itself"
            ),
            "mend what it names, then `refrain cycle retry NAME`; what is wrong in `spec.stages`: another cycle",
        ),
        "ResultUnknown": (
            "a stage's result cannot be had: its Job is gone and the store was not readable, or it makes no sense",
            "see whether the store answers, then `refrain cycle retry NAME`",
        ),
    },
    "Events alone": {
        "TrainsAgain": ("too small a gain: another attempt, by `selection.ladder`", ""),
        "RanksLost": ("a node's rank of a training was lost; all begin again from the last checkpoint", ""),
        "LeftToTheRuntime": (
            "training is handed over as a TrainJob, and what the message names of `spec.stages.train` is its runtime's",
            "set it in the runtime that the controller's `trainJob` names",
        ),
        "SharesLost": ("pods of an evaluation failed for good; it goes on with what the others have scored", ""),
        "RecordDiffers": (
            (
                "the Deployment serves what the controller set last, and the record says another: it was changed "
                "elsewhere (`refrain promote --rollback`, `refrain run`), or a promotion was cut off"
            ),
            "where the candidate is withheld: bring the one on record into service (docs/upgrade.md)",
        ),
        "JobLost": ("a stage's Job was lost before it had finished; it is begun again", ""),
    },
}
"""By where they stand: reason, what it means, what to do."""

REASONS: dict[str, Advice] = {reason: said for group in GROUPS.values() for reason, said in group.items()}


def what_to_do(reason: str, name: str, stage: str = "STAGE") -> str:
    """What to do about a cycle, with its name in place; empty where nothing is, or the reason is a newer one."""
    todo = REASONS.get(reason, ("", ""))[1]
    if todo.startswith("nothing"):
        return ""
    return todo.replace("NAME", name).replace("STAGE", stage).replace("`", "")


def page() -> Iterator[str]:
    """The lines of docs/operate.md's tables."""
    for title, reasons in GROUPS.items():
        yield f"### {title}"
        yield ""
        yield "| reason | what it means | what to do |"
        yield "|---|---|---|"
        for reason, (meaning, todo) in reasons.items():
            yield f"| {reason} | {meaning} | {todo} |"
        yield ""

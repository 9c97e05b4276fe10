"""The operator: turns a RetrainCycle into Jobs. It imports `jobs.contracts` and nothing else of `jobs`.

    handlers.py    kopf: "this archive may have changed"
    reconciler.py  one archive after another: observe, plan, apply; and all of them every few minutes
    observe.py     live objects -> Observed
    plan.py        pure: (cycle, observed, now) -> Plan; turns.py, running.py, promoting.py hold its parts
    manifests.py   pure: a stage of a cycle -> Job
    status.py      pure: conditions and columns
    apply.py       actions -> API
    cli/           `refrain cycle …`, for people: it reads and writes cycles as kubectl does

`api.py` is the one client; of the controller only `observe` and `apply` use it.
"""

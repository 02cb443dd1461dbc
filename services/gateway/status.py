"""Puts the cluster's status together from what Serve knows and what the processes report. Pure.

Serve knows which processes exist, the processes what they do; a replica that hangs is RUNNING to the one and silent to
the other until its health check fails.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from cluster.metrics.board import Snapshot
from cluster.metrics.families import Report, values_of
from cluster.metrics.loading import Loading
from services.gateway.schemas.status import (
    ClusterStatus,
    DispatcherStatus,
    GatewayStatus,
    Load,
    LoadFailureStatus,
    Pages,
    QueueStatus,
    ReplicaStatus,
    TurnsStatus,
)
from services.serve_facts import DeploymentFacts, ServedProcess, ServeFacts

REPLICA_PROCESS = "replica-"
GATEWAY_PROCESS = "gateway-"
DISPATCHER_PROCESS = "dispatcher-"
REJECTIONS = ("overloaded", "no_replica", "history_unavailable")  # codes of turns refused for now

SILENT = "It has not reported for five seconds: it hangs, or is cut off."
RETRYING = "What cannot load is tried again by itself: mend the cause, and it will serve."
GIVEN_UP = "Serve has stopped trying to start the {what}: mend the cause, then run `chatglm-cluster restart`."


def assemble(facts: ServeFacts, snapshot: Snapshot | None, *, silent_s: float = 0.0) -> ClusterStatus:
    """The cluster's status.

    Args:
        facts: what Serve's controller said last.
        snapshot: the board; None when it does not answer.
        silent_s: for how long the controller has not answered.
    """
    board = snapshot or Snapshot()
    reports = {report.process: report for report in board.reports}
    loading = {entry.incarnation: entry for entry in board.loading}
    replicas = [
        _replica(process, reports.get(REPLICA_PROCESS + process.incarnation), loading.get(process.incarnation))
        for process in facts.replicas.processes
    ]
    ranks = {replica.rank for replica in replicas if replica.rank is not None and replica.state == "RUNNING"}
    failed = [] if facts.replicas.is_complete else _cannot_load(board.loading, facts.replicas, ranks)
    return ClusterStatus(
        state=facts.state,
        serving=facts.replicas.running,
        target_replicas=facts.replicas.target,
        target_gateways=facts.gateways.target,
        target_dispatchers=facts.dispatchers.target,
        replicas=sorted(replicas, key=_place),
        cannot_load=failed,
        gateways=[_gateway(p, reports.get(GATEWAY_PROCESS + p.incarnation)) for p in facts.gateways.processes],
        dispatchers=[
            _dispatcher(p, reports.get(DISPATCHER_PROCESS + p.incarnation)) for p in facts.dispatchers.processes
        ],
        queue=_queue([report for name, report in reports.items() if name.startswith(DISPATCHER_PROCESS)]),
        turns=_turns([report for name, report in reports.items() if name.startswith(GATEWAY_PROCESS)]),
        notes=list(_notes(facts, has_board=snapshot is not None, explained=bool(failed), silent_s=silent_s)),
    )


def _replica(process: ServedProcess, report: Report | None, loading: Loading | None) -> ReplicaStatus:
    rank = None if report is None else values_of(report, "chatglm_replica_rank").get("")
    if rank is None and loading is not None:
        rank = loading.rank
    return ReplicaStatus(
        rank=None if rank is None else int(rank),
        incarnation=process.incarnation,
        state=process.state,
        reason=_reason(process, report, loading),
        node=process.node,
        pid=process.pid,
        load=None if report is None else _load(report),
    )


def _reason(process: ServedProcess, report: Report | None, loading: Loading | None) -> str | None:
    if loading is not None and loading.reason:
        return loading.reason
    return SILENT if process.state == "RUNNING" and report is None else None


def _load(report: Report) -> Load:
    turns, pages = _ints(report, "chatglm_turns"), _ints(report, "chatglm_pages")
    prompt, cached = _int(report, "chatglm_prompt_tokens"), _int(report, "chatglm_cached_tokens")
    return Load(
        running=turns["running"],
        waiting=turns["waiting"],
        waiting_tokens=_int(report, "chatglm_waiting_tokens"),
        tokens_per_second=round(values_of(report, "chatglm_tokens_per_second").get("", 0.0), 1),
        pages=Pages(active=pages["active"], cached=pages["cached"], free=pages["free"]),
        prompt_tokens=prompt,
        cached_tokens=cached,
        cache_share=_share(cached, prompt),
    )


def _cannot_load(entries: Iterable[Loading], deployment: DeploymentFacts, ranks: set[int]) -> list[LoadFailureStatus]:
    """Failed ranks that none of the running ``ranks`` is, no more than replicas are missing.

    Serve may give an attempt another rank than the one before; then the line of the attempt that lives is the true one.
    """
    live = {process.incarnation for process in deployment.processes}
    failed = [entry for entry in entries if entry.failures and entry.rank not in ranks]
    missing = max(1, deployment.target - deployment.running)
    shown = sorted(failed, key=lambda entry: entry.incarnation not in live)[:missing]
    return [
        LoadFailureStatus(rank=e.rank, node=e.reason_node, failures=e.failures, reason=e.reason)
        for e in sorted(shown, key=lambda entry: entry.rank)
    ]


def _gateway(process: ServedProcess, report: Report | None) -> GatewayStatus:
    return GatewayStatus(
        incarnation=process.incarnation,
        state=process.state,
        node=process.node,
        pid=process.pid,
        active_turns=None if report is None else _int(report, "chatglm_turns_active"),
    )


def _dispatcher(process: ServedProcess, report: Report | None) -> DispatcherStatus:
    return DispatcherStatus(
        incarnation=process.incarnation,
        state=process.state,
        node=process.node,
        pid=process.pid,
        used_slots=None if report is None else _int(report, "chatglm_dispatcher_slots_used"),
        slots=None if report is None else _int(report, "chatglm_dispatcher_slots"),
    )


def _queue(dispatchers: Iterable[Report]) -> QueueStatus | None:
    """Each tells of the whole queue; any of them will do."""
    told = next((report for report in dispatchers if values_of(report, "chatglm_queue_jobs")), None)
    if told is None:
        return None
    jobs, oldest_s = _ints(told, "chatglm_queue_jobs"), values_of(told, "chatglm_queue_oldest_seconds").get("", 0.0)
    return QueueStatus(
        waiting=jobs["waiting"],
        working=jobs["working"],
        delayed=jobs["delayed"],
        dead=jobs["dead"],
        oldest_s=round(oldest_s, 1),
    )


def _turns(gateways: list[Report]) -> TurnsStatus:
    pins = _total(gateways, "chatglm_pins")
    errors = _total(gateways, "chatglm_turn_errors")
    prompt = _total(gateways, "chatglm_served_prompt_tokens")[""]
    cached = _total(gateways, "chatglm_served_cached_tokens")[""]
    return TurnsStatus(
        active=_total(gateways, "chatglm_turns_active")[""],
        pinned=pins["pinned"],
        spilled=pins["spilled"],
        moved=pins["moved"],
        placed=pins["placed"],
        failovers=_total(gateways, "chatglm_turn_moves")[""],
        rejected={code: errors[code] for code in REJECTIONS if errors[code]},
        prompt_tokens=prompt,
        cached_tokens=cached,
        cache_share=_share(cached, prompt),
    )


def _notes(facts: ServeFacts, *, has_board: bool, explained: bool, silent_s: float) -> Iterable[str]:
    if silent_s:
        yield f"Ray Serve's controller has not answered for {silent_s:.0f} s; states are those from before."
    if not has_board:
        yield "The metrics board does not answer; loads and counters are unknown."
    for what, deployment in facts.parts:
        yield from _deployment_notes(what, deployment, explained=explained and what == "replicas")
    if facts.message and not any(deployment.message for _, deployment in facts.parts):
        yield facts.message


def _deployment_notes(what: str, deployment: DeploymentFacts, *, explained: bool) -> Iterable[str]:
    """Serve's own word, unless the replicas have said it better; and what to do when it has given up."""
    if deployment.message and not explained:
        yield f"{what.capitalize()}: {deployment.message}"
    if explained and not deployment.has_given_up:
        yield RETRYING
    if deployment.has_given_up:
        yield GIVEN_UP.format(what=what)


def _place(replica: ReplicaStatus) -> tuple[bool, int, str]:
    """By rank, those without one last."""
    return replica.rank is None, replica.rank or 0, replica.incarnation


def _ints(report: Report, name: str) -> Counter[str]:
    return Counter({label: int(value) for label, value in values_of(report, name).items()})


def _int(report: Report, name: str) -> int:
    return _ints(report, name)[""]


def _total(reports: Iterable[Report], name: str) -> Counter[str]:
    return sum((_ints(report, name) for report in reports), Counter[str]())


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None

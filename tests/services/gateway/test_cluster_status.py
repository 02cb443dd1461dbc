"""The status, put together from what Serve knows and what the processes report."""

from __future__ import annotations

from services.gateway.schemas.status import QueueStatus
from services.gateway.status import GIVEN_UP, RETRYING, SILENT, assemble
from services.queue.base import QueueLag
from services.serve_facts import ServeFacts
from services.turns.metrics import TurnMetrics
from tests.support.statuses import (
    NODE,
    board,
    deployment,
    dispatcher_report,
    facts,
    failed,
    gateway_report,
    replica_report,
)


def test_a_replica_is_what_serve_knows_and_what_it_reports() -> None:
    """Place and state come from Serve; rank, load and cache from the replica."""
    report = replica_report(
        "r1", 3, running=2, waiting=1, waiting_tokens=50, prompt_tokens=200, cached_tokens=150,
        pages_total=10, pages_active=4, pages_cached=3,
    )  # fmt: skip
    status = assemble(facts(replicas=deployment(1, r1="RUNNING")), board(report))
    (replica,) = status.replicas
    assert (replica.rank, replica.incarnation, replica.state, replica.node) == (3, "r1", "RUNNING", NODE)
    assert (replica.pid, replica.reason) == (4000, None)
    assert replica.load is not None
    assert (replica.load.running, replica.load.waiting, replica.load.waiting_tokens) == (2, 1, 50)
    assert (replica.load.pages.active, replica.load.pages.cached, replica.load.pages.free) == (4, 3, 3)
    assert (replica.load.cache_share, replica.load.tokens_per_second) == (0.75, 0.0)
    assert (status.state, status.serving, status.target_replicas, status.notes) == ("RUNNING", 1, 1, [])


def test_replicas_stand_in_the_order_of_their_ranks() -> None:
    """Those that have not told theirs come last."""
    reports = [replica_report("b", 0), replica_report("a", 10), replica_report("c", 2)]
    states = {"a": "RUNNING", "b": "RUNNING", "c": "RUNNING", "d": "STARTING"}
    status = assemble(facts(replicas=deployment(4, **states)), board(*reports))
    assert [replica.rank for replica in status.replicas] == [0, 2, 10, None]


def test_a_share_of_nothing_is_unknown() -> None:
    """Before the first prompt there is no cache share, neither zero nor an error."""
    status = assemble(facts(replicas=deployment(1, r1="RUNNING")), board(replica_report("r1", 0)))
    assert status.replicas[0].load is not None
    assert (status.replicas[0].load.cache_share, status.turns.cache_share) == (None, None)


def test_turns_of_all_gateways_are_added_up() -> None:
    """Pins by reason, failovers, refusals and tokens; what a client did wrong is no refusal."""
    first, second = TurnMetrics(), TurnMetrics()
    first.pins.update(pinned=5, placed=2)
    second.pins.update(pinned=1, spilled=3, moved=4)
    first.moves, second.moves = 1, 2
    first.errors.update(overloaded=2, context_length_exceeded=9)
    second.errors.update(no_replica=1)
    first.prompt_tokens, first.cached_tokens = 300, 100
    second.prompt_tokens, second.cached_tokens = 100, 100
    second.active = 7
    gateways = deployment(2, g1="RUNNING", g2="RUNNING")
    reports = [gateway_report("g1", first), gateway_report("g2", second)]
    status = assemble(facts(replicas=deployment(0), gateways=gateways), board(*reports))
    turns = status.turns
    assert (turns.pinned, turns.spilled, turns.moved, turns.placed, turns.failovers) == (6, 3, 4, 2, 3)
    assert turns.rejected == {"overloaded": 2, "no_replica": 1}
    assert (turns.active, turns.prompt_tokens, turns.cached_tokens, turns.cache_share) == (7, 400, 200, 0.5)
    assert [(gateway.incarnation, gateway.active_turns) for gateway in status.gateways] == [("g1", 0), ("g2", 7)]


def test_dispatchers_and_their_queue_are_shown() -> None:
    """Each with its slots; the queue once, as any of them tells it."""
    lag = QueueLag(waiting=7, tenants=2, working=3, delayed=5, dead=1, oldest_s=12.34)
    reports = [dispatcher_report("d1"), dispatcher_report("d2", used=3, lag=lag)]
    dispatchers = deployment(3, d1="RUNNING", d2="RUNNING", d3="STARTING")
    status = assemble(facts(replicas=deployment(0), dispatchers=dispatchers), board(*reports))
    slots = [(each.incarnation, each.used_slots, each.slots) for each in status.dispatchers]
    assert (status.target_dispatchers, slots) == (3, [("d1", 0, 64), ("d2", 3, 64), ("d3", None, None)])
    assert status.queue == QueueStatus(waiting=7, working=3, delayed=5, dead=1, oldest_s=12.3)


def test_a_queue_that_nobody_tells_of_is_unknown() -> None:
    """As in the first second of a dispatcher, or while its store is away."""
    assert assemble(facts(replicas=deployment(0)), board(dispatcher_report("d1"))).queue is None


def test_a_replica_that_cannot_load_is_shown_with_its_reason() -> None:
    """The rank, the machine, how often, and why, both by itself and at the attempt that goes on."""
    loading = (failed(1, "r9", "/model: no weights.", failures=3),)
    status = assemble(
        facts(replicas=deployment(2, state="UNHEALTHY", message="no weights.", r1="RUNNING", r9="STARTING")),
        board(replica_report("r1", 0), loading=loading),
    )
    (failure,) = status.cannot_load
    assert (failure.rank, failure.node, failure.failures, failure.reason) == (1, NODE, 3, "/model: no weights.")
    assert [(r.rank, r.state, r.reason) for r in status.replicas] == [
        (0, "RUNNING", None), (1, "STARTING", "/model: no weights."),
    ]  # fmt: skip
    assert status.serving == 1
    assert status.notes == [RETRYING]  # Serve's message would say the same again


def test_the_reason_stays_between_two_attempts() -> None:
    """While the next attempt's process has not signed in, the rank is told all the same."""
    loading = (failed(1, "gone", "/model: no weights."),)
    status = assemble(facts(replicas=deployment(2, r1="RUNNING", r9="STARTING")), board(loading=loading))
    assert [failure.rank for failure in status.cannot_load] == [1]
    assert [replica.rank for replica in status.replicas] == [None, None]


def test_a_first_attempt_is_no_failure() -> None:
    """A replica that loads for the first time is not reported."""
    loading = (failed(0, "r1", "", failures=0),)
    status = assemble(facts(replicas=deployment(1, r1="STARTING")), board(loading=loading))
    assert status.cannot_load == []
    assert (status.replicas[0].rank, status.replicas[0].reason) == (0, None)


def test_a_rank_that_serves_has_not_failed() -> None:
    """A line that the board has not dropped yet does not count."""
    loading = (failed(0, "old", "no weights"), failed(1, "r9", "no weights"))
    states = deployment(2, r1="RUNNING", r9="STARTING")
    status = assemble(facts(replicas=states), board(replica_report("r1", 0), loading=loading))
    assert [failure.rank for failure in status.cannot_load] == [1]


def test_an_attempt_under_another_rank_is_no_second_failure() -> None:
    """One replica is missing, so one is told: that of the attempt that lives."""
    loading = (failed(1, "old", "no weights"), failed(2, "r9", "no weights"))
    states = deployment(2, r1="RUNNING", r9="STARTING")
    status = assemble(facts(replicas=states), board(replica_report("r1", 0), loading=loading))
    assert [failure.rank for failure in status.cannot_load] == [2]


def test_a_rank_that_was_given_up_has_not_failed() -> None:
    """Scaled down to what serves, nothing is missing."""
    loading = (failed(1, "old", "no weights"),)
    status = assemble(facts(replicas=deployment(1, r1="RUNNING")), board(replica_report("r1", 0), loading=loading))
    assert status.cannot_load == []


def test_a_running_replica_that_is_silent_is_named() -> None:
    """Serve finds a hanging process at its next health check; its silence is seen before."""
    status = assemble(facts(replicas=deployment(1, r1="RUNNING")), board())
    assert (status.replicas[0].load, status.replicas[0].reason) == (None, SILENT)


def test_serve_speaks_where_the_replicas_cannot() -> None:
    """Without a word from a replica, for instance for want of a GPU, Serve's own is passed on."""
    replicas = deployment(1, state="UPDATING", message="1 replicas have taken more than 30s to be scheduled.")
    status = assemble(facts(replicas=replicas), board())
    assert status.notes == ["Replicas: 1 replicas have taken more than 30s to be scheduled."]


def test_when_serve_gives_up_the_operator_is_told_what_to_do() -> None:
    """After a rolling update that failed Serve tries no more, whatever is mended."""
    replicas = deployment(2, state="DEPLOY_FAILED", message="no weights.", r1="RUNNING")
    loading = (failed(0, "r9", "no weights."),)
    status = assemble(facts(replicas=replicas), board(loading=loading))
    assert status.notes == [GIVEN_UP.format(what="replicas")]


def test_while_serve_tries_nobody_is_told_to_deploy_again() -> None:
    """With all replicas dead the state is the same as after a failed update, but attempts go on."""
    for state in ("STARTING", "STOPPING"):
        replicas = deployment(1, state="DEPLOY_FAILED", message="no weights.", r9=state)
        status = assemble(facts(replicas=replicas), board(loading=(failed(0, "r9", "no weights."),)))
        assert (status.serving, status.notes) == (0, [RETRYING])


def test_what_is_not_known_is_said() -> None:
    """A silent board and a silent controller are told; the last known states stay."""
    status = assemble(facts(replicas=deployment(1, r1="RUNNING")), None, silent_s=12.4)
    assert [replica.state for replica in status.replicas] == ["RUNNING"]
    assert any("board" in note for note in status.notes)
    assert any("controller" in note and "12 s" in note for note in status.notes)


def test_an_application_that_is_not_there_is_an_empty_cluster() -> None:
    """No replicas, no gateways, no error."""
    status = assemble(ServeFacts(), board())
    assert (status.state, status.replicas, status.gateways) == ("NOT_STARTED", [], [])

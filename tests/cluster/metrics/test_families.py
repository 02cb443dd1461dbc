"""Metric families: the text Prometheus reads."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from cluster.engine.client import EngineStats
from cluster.engine.tenant_use import TenantUse
from cluster.metrics.families import Report, counter, gauge, histogram, render
from cluster.replica.metrics import EngineFamilies


def samples(text: bytes) -> dict[tuple[str, str], float]:
    """Value by (sample name, process) of a text with no other labels."""
    families = text_string_to_metric_families(text.decode())
    return {(s.name, s.labels["process"]): s.value for f in families for s in f.samples}


def test_each_process_has_its_own_sample_in_one_family() -> None:
    """One TYPE line, one sample per process."""
    reports = [Report(name, [counter("tokens", "Tokens.", value)]) for name, value in (("a", 1), ("b", 2))]
    text = render(reports)
    assert samples(text) == {("tokens_total", "a"): 1, ("tokens_total", "b"): 2}
    assert text.count(b"# TYPE") == 1


def test_histogram_buckets_are_cumulative() -> None:
    """Buckets count everything at or below their bound; the last equals the count."""
    text = render([Report("p", [histogram("wait_seconds", "Wait.", bounds=[0.1, 1], counts=[2, 3, 1], total=4.5)])])
    buckets = [s for f in text_string_to_metric_families(text.decode()) for s in f.samples]
    assert [(s.labels.get("le"), s.value) for s in buckets] == [
        ("0.1", 2), ("1", 5), ("+Inf", 6), (None, 6), (None, 4.5),
    ]  # fmt: skip


def test_a_labelled_gauge_has_a_sample_per_key() -> None:
    """Labels and the process stand side by side."""
    text = render([Report("p", [gauge("pages", "Pages.", {"free": 3, "cached": 4}, label="state")])])
    assert b'pages{process="p",state="free"} 3.0' in text or b'pages{state="free",process="p"} 3.0' in text


def test_tokens_per_second_is_the_rate_of_the_last_seconds() -> None:
    """A counter that grows by 10 a second reads 10, however long it grew faster before."""
    now = [0.0]
    families = EngineFamilies(clock=lambda: now[0])
    produced = 0
    for second in range(20):
        now[0] = float(second)
        produced += 1000 if second < 5 else 10
        latest = families(EngineStats(output_tokens=produced), rank=0)
    rate = next(f for f in latest if f.name == "chatglm_tokens_per_second")
    assert rate.samples[0][2] == 10


def test_the_cache_is_told_by_tenant() -> None:
    """Levels and counters of each name, with the process beside it; a name may hold any character."""
    use = {"acme": TenantUse(1, 2, 32, 48, 5), "other": TenantUse(), 'a"b\n': TenantUse(cached_pages=7)}
    text = render([Report("p", EngineFamilies()(EngineStats(tenants=use), rank=0))])
    found = {
        (sample.name, sample.labels["tenant"]): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if "tenant" in sample.labels
    }
    assert {name: value for (name, tenant), value in found.items() if tenant == "acme"} == {
        "chatglm_tenant_active_pages": 1,
        "chatglm_tenant_cached_pages": 2,
        "chatglm_tenant_hit_tokens_total": 32,
        "chatglm_tenant_miss_tokens_total": 48,
        "chatglm_tenant_evicted_pages_total": 5,
    }
    assert found["chatglm_tenant_cached_pages", 'a"b\n'] == 7
    assert len(found) == 3 * 5

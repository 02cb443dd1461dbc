"""The ranks of tenants stay small, however often they change."""

from cluster.engine.eviction import _Ranking


def test_outdated_ranks_do_not_pile_up() -> None:
    """A tenant whose level changes again and again below the first leaves nothing behind."""
    ranking = _Ranking()
    ranking.put("first", 1e6)
    for level in range(1000):
        ranking.put("other", level)
        assert ranking.first() == "first"
    assert len(ranking._heap) < 100


def test_rank_follows_its_level_up_and_down() -> None:
    """The first is the one whose latest level is highest, and nobody once all are gone."""
    ranking = _Ranking()
    firsts = []
    for salt, level in [("a", 2.0), ("b", 3.0), ("b", 1.0), ("a", 0.5)]:
        ranking.put(salt, level)
        firsts.append(ranking.first())
    ranking.drop("b")
    firsts.append(ranking.first())
    ranking.drop("a")
    assert [*firsts, ranking.first()] == ["a", "b", "a", "b", "a", None]

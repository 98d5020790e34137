"""Memory is bounded."""

from tera_jax.serve.engine.lru import LRU


def test_what_was_not_used_for_longest_is_forgotten():
    kept = LRU(10)
    for key in "abc":
        kept.put(key, key.upper(), 4)
    assert [kept.get(key) for key in "abc"] == [None, "B", "C"]
    kept.get("b")
    kept.put("d", "D", 4)
    assert [kept.get(key) for key in "bcd"] == ["B", None, "D"]
    kept.put("e", "E", 11)
    assert kept.get("e") is None
    kept.put("d", "F", 5)
    assert (kept.get("d"), kept.bytes, len(kept)) == ("F", 9, 2)

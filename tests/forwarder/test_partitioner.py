"""Which partition a key goes to: Java's rule, because other clients and the broker's own tools follow it."""

from __future__ import annotations

import pytest
from aiokafka.partitioner import murmur2 as aiokafka_murmur2
from hypothesis import given, settings
from hypothesis import strategies as st

from skillaudit.producer.publisher import murmur2, partition_for

# Golden values of Kafka's own test (org.apache.kafka.common.utils.UtilsTest.testMurmur2).
JAVA_GOLDEN = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize(("key", "signed"), JAVA_GOLDEN.items())
def test_hash_is_javas(key: bytes, signed: int):
    """The hash agrees with the Java client's published values, read as an unsigned number."""
    assert murmur2(key) == signed & 0xFFFFFFFF


@given(st.binary(max_size=80))
@settings(max_examples=200)
def test_hash_agrees_with_aiokafka_for_any_key(key: bytes):
    """A second implementation gives the same for any bytes."""
    assert murmur2(key) == aiokafka_murmur2(key)


@given(st.binary(min_size=1, max_size=40), st.integers(1, 1000))
def test_partition_is_javas_formula(key: bytes, count: int):
    """The partition is the hash without its sign bit, modulo the count."""
    assert partition_for(key, count) == (aiokafka_murmur2(key) & 0x7FFFFFFF) % count

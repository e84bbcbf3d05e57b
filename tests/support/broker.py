"""Real Kafka brokers for tests: the `apache/kafka` image, one node or a cluster of three, with faults by the hand.

Import this module only where a broker is wanted: it loads Docker's client.
"""

import asyncio
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import docker
import docker.errors
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

IMAGE = "apache/kafka:4.4.0"
PARTITIONS = 6
RECORD_BYTES_MAX = 16 * 1024 * 1024
READY_S_MAX = 150.0
STOP_S_MAX = 30
PAUSE_ATTEMPTS_MAX = 5
_PAUSE_AGAIN_S = 0.5
_LOG_LINES_SHOWN = 30
_ASK_AGAIN_S = 0.2
_ASK_MS_MAX = 3_000
_CLUSTER_ID = "c2tpbGxhdWRpdC10ZXN0cw"
_PORT_MIN, _PORT_MAX = 20_000, 32_000
_PORT_TRIES_MAX = 100
_DATA = "/var/lib/kafka/data"

# What every broker here has in common. Topics are made on purpose only: a mistyped name must fail, not appear.
_COMMON: Mapping[str, str] = {
    "CLUSTER_ID": _CLUSTER_ID,
    "KAFKA_PROCESS_ROLES": "broker,controller",
    "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
    "KAFKA_INTER_BROKER_LISTENER_NAME": "INTERNAL",
    "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "CONTROLLER:PLAINTEXT,INTERNAL:PLAINTEXT,EXTERNAL:PLAINTEXT",
    "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    "KAFKA_NUM_PARTITIONS": str(PARTITIONS),
    "KAFKA_MESSAGE_MAX_BYTES": str(RECORD_BYTES_MAX),
    "KAFKA_REPLICA_FETCH_MAX_BYTES": str(RECORD_BYTES_MAX),
    "KAFKA_LOG_MESSAGE_TIMESTAMP_TYPE": "LogAppendTime",
    "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
    "KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS": "3",
    # A killed broker's partitions get a new leader, or the broker itself back, in seconds: the default waits for nine.
    "KAFKA_BROKER_SESSION_TIMEOUT_MS": "3000",
    "KAFKA_BROKER_HEARTBEAT_INTERVAL_MS": "500",
    "KAFKA_LOG_DIRS": _DATA,
    "KAFKA_HEAP_OPTS": "-Xmx384M -Xms192M",
}


class BrokerNotReadyError(RuntimeError):
    """The broker did not answer within the limit; the text ends with its last lines."""


def free_port() -> int:
    """A TCP port of the loopback interface that nothing listens on.

    Not one that the system would hand out: while a broker is down, such a port can become the near end of somebody's
    connection (even of a client that tries to reach the broker, which then talks to itself), and the restart fails.
    """
    for _ in range(_PORT_TRIES_MAX):
        port = _PORT_MIN + secrets.randbelow(_PORT_MAX - _PORT_MIN)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise RuntimeError(f"no free port in {_PORT_TRIES_MAX} tries between {_PORT_MIN} and {_PORT_MAX}")


def docker_problem() -> str | None:
    """Why Docker cannot be used, or None where it can."""
    try:
        client = docker.from_env()
    except docker.errors.DockerException as error:
        return f"no Docker: {error}"
    try:
        client.ping()
    except Exception as error:  # noqa: BLE001 - whatever keeps the daemon from answering is the reason to report
        return f"Docker does not answer: {error}"
    else:
        # The reaper's image is one more to pull; where it isn't at hand, the fixtures' own clean-up has to do.
        try:
            client.images.get(testcontainers_config.ryuk_image)
        except docker.errors.ImageNotFound:
            testcontainers_config._ryuk_disabled = True
        return None
    finally:
        client.close()


def wait_until_answering(
    bootstrap: str,
    *,
    brokers: int = 1,
    timeout_s: float = READY_S_MAX,
    still_running: Callable[[], bool] = lambda: True,
) -> None:
    """Return when a client that asks `bootstrap` for the cluster's members is told of `brokers` of them."""
    # In a thread, because the caller may be inside an event loop.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, _wait_until_answering(bootstrap, brokers, timeout_s, still_running)).result()


async def _wait_until_answering(
    bootstrap: str, brokers: int, timeout_s: float, still_running: Callable[[], bool]
) -> None:
    deadline = time.monotonic() + timeout_s
    seen = "no answer"
    while time.monotonic() < deadline:
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=_ASK_MS_MAX)
        try:
            await admin.start()
            members = (await admin.describe_cluster())["brokers"]
        except (KafkaError, OSError, TimeoutError) as error:
            seen = f"{type(error).__name__}: {error}"
        else:
            if len(members) >= brokers:
                return
            seen = f"{len(members)} of {brokers} brokers"
        finally:
            await admin.close()
        if not still_running():
            raise BrokerNotReadyError(f"{bootstrap}: the broker has ended ({seen})")
        await asyncio.sleep(_ASK_AGAIN_S)
    raise BrokerNotReadyError(f"{bootstrap}: not ready after {timeout_s:g} s ({seen})")


class KafkaContainer(DockerContainer):
    """One broker of the `apache/kafka` image, reachable from the host at `bootstrap`.

    The port is chosen beforehand, because the broker must advertise it, and stays the same over restarts.
    The data is on an anonymous volume: it survives `kill`, `halt` and `resume`, and goes with `stop`.
    """

    def __init__(
        self,
        image: str = IMAGE,
        *,
        node_id: int = 1,
        voters: str = "1@localhost:9093",
        internal_host: str = "localhost",
        env: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(image, **kwargs)
        self.port = free_port()
        replicas = str(min(3, voters.count("@")))
        self.env = {
            **_COMMON,
            "KAFKA_NODE_ID": str(node_id),
            "KAFKA_CONTROLLER_QUORUM_VOTERS": voters,
            "KAFKA_LISTENERS": "INTERNAL://:9092,EXTERNAL://:9094,CONTROLLER://:9093",
            "KAFKA_ADVERTISED_LISTENERS": f"INTERNAL://{internal_host}:9092,EXTERNAL://{self.bootstrap}",
            "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": replicas,
            "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": replicas,
            "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
            **(env or {}),
        }
        # The type says int; Docker takes (address, port) as well, and a test's broker is nobody else's business.
        self.ports["9094/tcp"] = ("127.0.0.1", self.port)  # type: ignore[assignment]

    @property
    def bootstrap(self) -> str:
        """host:port as a client on this machine uses it."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Start the broker and wait until it answers; on failure remove it and tell its last lines."""
        self.launch()
        try:
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def launch(self) -> None:
        """Start the container without waiting for the broker in it."""
        try:
            super().start()
        except BaseException:
            self.stop()
            raise

    def stop(self, force: bool = True, delete_volume: bool = True) -> None:
        """Remove the container and its data; a second call does nothing."""
        super().stop(force=force, delete_volume=delete_volume)
        self._container = None

    def wait_until_ready(self, *, brokers: int = 1, timeout_s: float = READY_S_MAX) -> None:
        """Wait until the broker answers as one of `brokers`; what does not answer is left as it is, for a look."""
        try:
            wait_until_answering(
                self.bootstrap, brokers=brokers, timeout_s=timeout_s, still_running=self._runs
            )
        except BrokerNotReadyError as error:
            raise BrokerNotReadyError(f"{error}; its last lines:\n{self.said()}") from error

    def said(self, lines: int = _LOG_LINES_SHOWN) -> str:
        """The last lines of its log, of all its lives."""
        text: str = self.get_wrapped_container().logs(tail=lines).decode(errors="replace")
        return text

    def _runs(self) -> bool:
        container = self.get_wrapped_container()
        container.reload()
        return str(container.status) == "running"

    def kill(self) -> None:
        """SIGKILL: the broker is gone at once, its data stays."""
        self.get_wrapped_container().kill()
        self.get_wrapped_container().wait(timeout=STOP_S_MAX)

    def halt(self) -> None:
        """SIGTERM: the broker ends in order, its data stays (`stop` removes container and data)."""
        self.get_wrapped_container().stop(timeout=STOP_S_MAX)

    def resume(self, *, wait: bool = True, timeout_s: float = READY_S_MAX) -> None:
        """Start it again after `kill` or `halt`, or after it ended by itself, at the same port with the same data."""
        self.get_wrapped_container().start()
        if wait:
            self.wait_until_ready(timeout_s=timeout_s)

    def pause(self) -> None:
        """Freeze its processes: connections stay open and nothing answers. On a busy host the engine may be unable to, at first."""
        for attempts_left in reversed(range(PAUSE_ATTEMPTS_MAX)):
            try:
                self.get_wrapped_container().pause()
            except docker.errors.APIError as exc:
                if not exc.is_server_error() or not attempts_left:
                    raise
                time.sleep(_PAUSE_AGAIN_S)
            else:
                return

    def unpause(self) -> None:
        """Let frozen processes go on."""
        self.get_wrapped_container().unpause()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Frozen within the block, whatever happens in it."""
        self.pause()
        try:
            yield
        finally:
            self.unpause()

    def run_command(self, *words: str) -> str:
        """Run one of /opt/kafka/bin's scripts in the container; its output."""
        code, output = self.exec([f"/opt/kafka/bin/{words[0]}", *words[1:]])
        text: str = output.decode(errors="replace")
        if code != 0:
            raise RuntimeError(f"{' '.join(words)}: exit {code}: {text}")
        return text


class Cluster:
    """Three brokers that are controllers too: what is acknowledged with acks=all survives the loss of one."""

    def __init__(self, image: str = IMAGE, *, brokers: int = 3, env: Mapping[str, str] | None = None) -> None:
        # Names of their own, so that two clusters on one machine do not mix.
        mark = secrets.token_hex(4)
        self.network = Network()
        names = [f"kafka-{mark}-{number}" for number in range(1, brokers + 1)]
        voters = ",".join(f"{number}@{name}:9093" for number, name in enumerate(names, 1))
        defaults = {
            "KAFKA_DEFAULT_REPLICATION_FACTOR": str(brokers),
            "KAFKA_MIN_INSYNC_REPLICAS": str(brokers // 2 + 1),
        }
        self.brokers = [
            KafkaContainer(
                image,
                node_id=number,
                voters=voters,
                internal_host=name,
                env={**defaults, **(env or {})},
                network=self.network,
                network_aliases=[name],
            )
            for number, name in enumerate(names, 1)
        ]

    @property
    def bootstrap(self) -> str:
        """All brokers, comma-separated, as a client on this machine uses them."""
        return ",".join(broker.bootstrap for broker in self.brokers)

    def start(self) -> Self:
        """Start all brokers at once, because each waits for a quorum, and wait until each knows all of them."""
        self.network.create()
        try:
            for broker in self.brokers:
                broker.launch()
            for broker in self.brokers:
                broker.wait_until_ready(brokers=len(self.brokers))
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Remove brokers, data and network; every one of them is tried, then the failures are raised together."""
        failures: list[Exception] = []
        steps: list[Callable[[], None]] = [broker.stop for broker in self.brokers]
        for step in [*steps, self.network.remove]:
            try:
                step()
            except docker.errors.NotFound:
                continue
            except Exception as error:  # noqa: BLE001 - collected and raised below
                failures.append(error)
        self.network._docker.client.close()
        if failures:
            raise ExceptionGroup("the cluster could not be removed", failures)

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

"""Where schedules are timed: on this machine, or on the servers that TVM's tracker hands out."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ...ir import TargetError
from .cuda import arch_of

_SECONDS = 30  # of a schedule on a server; in so many the others' are done as well
_PATIENCE = 5  # seconds, for a tracker to answer


@dataclass(frozen=True)
class Clock:
    """What times schedules.

    Attributes:
        runner: MetaSchedule's.
        servers: How many schedules it times at once, on a server each; of this machine none.
        place: In words, for a report.
    """

    runner: Any
    servers: int = 0
    place: str = ""

    def times(self, inputs: Iterable[Any]) -> Iterator[Any]:
        """The result of each, in their order."""
        futures = (self.runner.run([given])[0] for given in inputs)
        # Servers begin at once; this machine times one when it is asked for.
        return (future.result() for future in (list(futures) if self.servers else futures))


def here() -> Clock:
    """The clock of this machine."""
    runner: Any = import_module("tvm.s_tir.meta_schedule.runner")
    return Clock(runner.LocalRunner())


@dataclass(frozen=True)
class Tracker:
    """A tracker of TVM's (``python -m tvm.exec.rpc_tracker``), and what its servers are called.

    Attributes:
        key: That servers were started with (``python -m tvm.exec.rpc_server --key``).
    """

    host: str
    port: int
    key: str

    @classmethod
    def named(cls, address: str, key: str) -> Tracker:
        """The tracker at ``host:port``; raises ``TargetError``."""
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not key:
            raise TargetError(
                f"target 'tvm' knows no tracker {address!r} with servers {key!r}",
                do="give both, such as options={'tracker': 'localhost:9190', 'key': 'zen4'}",
            )
        return cls(host, int(port), key)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def clock(self, target: Any) -> Clock:
        """All of its servers, the free ones of which are known to run code of a TVM target.

        Raises:
            TargetError: No tracker, no server, none that is free, or one of another device.
        """
        with self._session() as session:
            count = self._count(session)
            held: list[Any] = []  # so that each request is given another one
            for _ in range(self._free(session, count)):
                held.append(session.request(self.key, session_timeout=_SECONDS))
                self._check(held[-1], target)
        runner: Any = import_module("tvm.s_tir.meta_schedule.runner")
        config = runner.RPCConfig(
            tracker_host=self.host,
            tracker_port=self.port,
            tracker_key=self.key,
            session_timeout_sec=_SECONDS,
        )
        place = f"on {count} server{'s' * (count > 1)} {self.key!r} of the tracker at {self}"
        timing = runner.RPCRunner(config, max_workers=count, f_create_session=_given)
        return Clock(timing, count, place)

    @contextmanager
    def _session(self) -> Generator[Any]:
        rpc: Any = import_module("tvm.rpc")
        magic = struct.pack("<i", rpc.base.RPC_TRACKER_MAGIC)
        try:
            # TVM's own client tries again for a minute, and waits for an answer for ever.
            with socket.create_connection((self.host, self.port), _PATIENCE) as trial:
                trial.sendall(magic)
                if trial.recv(len(magic)) != magic:
                    raise OSError("something else answers")
            with closing(rpc.connect_tracker(self.host, self.port)) as session:
                yield session
        except (OSError, RuntimeError) as error:
            raise TargetError(
                f"there is no tracker of TVM's at {self} ({error})",
                do="start it there: python -m tvm.exec.rpc_tracker",
            ) from error

    def _count(self, session: Any) -> int:
        found = session.summary()["server_info"]
        count = sum(server["key"] == f"server:{self.key}" for server in found)
        if not count:
            raise TargetError(
                f"the tracker at {self} knows no server {self.key!r}",
                do="start one on each machine that shall time schedules: python -m "
                f"tvm.exec.rpc_server --tracker {self} --key {self.key}",
            )
        return count

    def _free(self, session: Any, count: int) -> int:
        end = time.monotonic() + _SECONDS
        while True:
            if free := session.summary()["queue_info"].get(self.key, {"free": 0})["free"]:
                return int(free)
            if time.monotonic() > end:
                raise TargetError(
                    f"no server {self.key!r} of the tracker at {self} is free: {count} "
                    f"{'is' if count == 1 else 'are'} busy for more than {_SECONDS} seconds",
                    do="wait until others have ended their searches, or start more servers",
                )
            time.sleep(0.2)

    def _check(self, server: Any, target: Any) -> None:
        if target.kind.name == "cuda":
            device, wanted = server.cuda(0), target.attrs["arch"]
            found = arch_of(device) if device.exist else "no GPU of NVIDIA's"
        else:
            wanted, found = target.attrs["mcpu"], _processor(server)
        if found != wanted:
            raise TargetError(
                f"a server {self.key!r} of the tracker at {self} has {found}, and the model is "
                f"compiled for {wanted}",
                do="give servers of one kind a key of their own, and compile for that kind",
            )


def _given(config: Any) -> Any:
    """A server, in one of the processes that wait for them; where none is left they would wait for
    ever."""
    if not config.count_num_servers():
        raise RuntimeError(f"the tracker knows no server {config.tracker_key!r} any more")
    return config.connect_server()


def _processor(server: Any) -> str:
    try:
        return str(server.get_function("target.llvm_get_system_cpu")())
    except AttributeError:
        return "a TVM without LLVM, which does not know its processor"

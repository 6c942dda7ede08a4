"""TVM's schedules timed by others: a tracker and its servers on this machine."""

import contextlib
import json
import socket
from collections.abc import Callable, Generator, Iterator
from importlib import import_module
from typing import Any, TypeAlias

import pytest
import torch

from regauge.backends.profiles import target
from regauge.backends.tvm import measuring
from regauge.backends.tvm.build import prepared
from regauge.backends.tvm.emit import emit
from regauge.backends.tvm.processor import host
from regauge.backends.tvm.runner import TvmRunner
from regauge.backends.tvm.tuning import search
from regauge.ir import Graph, TargetError
from regauge.ir.interpret import execute

pytest.importorskip("tvm")
pytest.importorskip("xgboost")

Make: TypeAlias = Callable[..., Graph]
Feed: TypeAlias = Callable[..., list[torch.Tensor]]

GRAPH = ("x: f32[16, 32], *, w: f32[48, 32]", "a = linear(x, w)", "y = relu(a)")
HOST = "127.0.0.1"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def tracker() -> Iterator[str]:
    """The address of one."""
    pytest.importorskip("tornado")  # of the machine that the tracker runs on
    tracking: Any = import_module("tvm.rpc.tracker")
    port = free_port()
    found = tracking.Tracker(HOST, port, port + 1, silent=True)
    try:
        yield f"{HOST}:{port}"
    finally:
        found.terminate()


@contextlib.contextmanager
def servers(tracker: str, key: str, count: int = 1) -> Generator[None]:
    rpc: Any = import_module("tvm.rpc")
    name, _, port = tracker.rpartition(":")
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            own = free_port()
            server = rpc.Server(
                HOST, own, own + 1, tracker_addr=(name, int(port)), key=key, silent=True
            )
            stack.callback(server.terminate)
        with contextlib.closing(rpc.connect_tracker(name, int(port))) as session:
            while session.summary()["queue_info"].get(key, {"free": 0})["free"] < count:
                pass
        yield


def test_schedules_are_timed_by_all_servers_of_a_tracker(
    tracker: str, graph_of: Make, inputs_of: Feed
) -> None:
    graph = graph_of(*GRAPH)
    inputs = inputs_of(graph)
    with servers(tracker, "pair", 2):
        runner = target("tvm").lower(graph, tune=4, tracker=tracker, key="pair")
    assert isinstance(runner, TvmRunner)
    assert runner.records is not None
    rows = [json.loads(row)[1][0] for row in runner.records.records.splitlines()]
    assert rows[0] not in rows[1:]  # the default schedule is timed there as well
    assert runner.records.count >= 2
    assert runner.notes == (
        f"tuned by MetaSchedule: {runner.records.count} schedules were timed on 2 servers 'pair' "
        f"of the tracker at {tracker}",
    )
    torch.testing.assert_close(runner(inputs), execute(graph, inputs), rtol=2e-5, atol=2e-5)


def test_a_missing_tracker_is_named(graph_of: Make) -> None:
    address = f"{HOST}:{free_port()}"
    with pytest.raises(TargetError, match=f"no tracker of TVM's at {address}") as caught:
        target("tvm").lower(graph_of(*GRAPH), tune=4, tracker=address, key="here")
    assert "python -m tvm.exec.rpc_tracker" in str(caught.value)


def test_what_is_no_tracker_is_named(graph_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "_PATIENCE", 0.2)
    with socket.create_server((HOST, 0)) as silent:
        address = f"{HOST}:{silent.getsockname()[1]}"
        with pytest.raises(TargetError, match=f"no tracker of TVM's at {address}"):
            target("tvm").lower(graph_of(*GRAPH), tune=4, tracker=address, key="here")


def test_a_tracker_without_servers_of_the_name_says_how_to_start_one(
    tracker: str, graph_of: Make
) -> None:
    with pytest.raises(TargetError, match="knows no server 'absent'") as caught:
        target("tvm").lower(graph_of(*GRAPH), tune=4, tracker=tracker, key="absent")
    assert f"tvm.exec.rpc_server --tracker {tracker} --key absent" in str(caught.value)


def test_servers_that_others_hold_are_waited_for_and_then_named(
    tracker: str, graph_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    rpc: Any = import_module("tvm.rpc")
    monkeypatch.setattr(measuring, "_SECONDS", 1)
    name, _, port = tracker.rpartition(":")
    with servers(tracker, "busy"):
        held = rpc.connect_tracker(name, int(port)).request("busy")
        with pytest.raises(
            TargetError, match=r"no server 'busy' of the tracker at .* is free: 1 is"
        ):
            target("tvm").lower(graph_of(*GRAPH), tune=4, tracker=tracker, key="busy")
        del held


def test_a_server_of_another_processor_is_named(
    tracker: str, graph_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    tvm: Any = import_module("tvm")

    def other() -> Any:
        return tvm.target.Target({"kind": "llvm", "mcpu": "haswell", "num-cores": 1})

    monkeypatch.setattr("regauge.backends.tvm.runner.host", other)
    cpu = tvm.target.codegen.llvm_get_system_cpu()
    with servers(tracker, "other"):
        with pytest.raises(TargetError, match=f"has {cpu}, and the model is compiled for haswell"):
            target("tvm").lower(graph_of(*GRAPH), tune=4, tracker=tracker, key="other")


def test_a_server_without_a_gpu_is_named(tracker: str, graph_of: Make) -> None:
    tvm: Any = import_module("tvm")
    if tvm.cuda(0).exist:
        pytest.skip("is of a machine without a GPU")
    with servers(tracker, "plain"):
        with pytest.raises(TargetError, match="has no GPU of NVIDIA's, and the model is compiled"):
            target("tvm").lower(
                graph_of(*GRAPH), tune=4, device="cuda", tracker=tracker, key="plain"
            )


def test_a_search_whose_servers_are_lost_ends(tracker: str, graph_of: Make) -> None:
    processor = host()
    module = prepared(emit(graph_of(*GRAPH)).module, processor)
    with servers(tracker, "lost"):
        clock = measuring.Tracker.named(tracker, "lost").clock(processor)
    with pytest.raises(TargetError, match="no schedule was timed on 1 server 'lost'") as caught:
        search(module, processor, 4, clock=clock)
    assert "knows no server 'lost' any more" in str(caught.value)


@pytest.mark.parametrize(("address", "key"), [("localhost", ""), ("localhost:1", ""), ("", "here")])
def test_half_of_a_tracker_is_refused(address: str, key: str, graph_of: Make) -> None:
    with pytest.raises(TargetError, match="knows no tracker"):
        target("tvm").lower(graph_of(*GRAPH), tune=4, tracker=address, key=key)

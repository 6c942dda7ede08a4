"""A trained network for microcontrollers: what runs here, on disk, and on a Cortex-M55 in QEMU."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from zoo import digits, digits_resnet

import regauge as rg
from regauge.backends import onnxruntime
from regauge.backends.c import source
from regauge.backends.profiles import TARGETS
from regauge.ir import ArtifactError, Graph, TargetError, parse
from regauge.ir.interpret import execute

BOARD = Path(__file__).parents[1] / "support" / "mps3"
GCC, QEMU = "arm-none-eabi-gcc", "qemu-system-arm"

pytestmark = pytest.mark.skipif(not TARGETS["c"].installed, reason="there is no C compiler")
needs_board = pytest.mark.skipif(
    shutil.which(GCC) is None or shutil.which(QEMU) is None,
    reason=f"there is no {GCC} or no {QEMU}",
)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return digits_resnet()


@pytest.fixture(scope="module")
def art(model: nn.Module) -> rg.Artifact:
    data = digits()
    batches = list(data.train[:64].split(1))
    return rg.compile(model, data.test[:1], passes="w8a8", calibration=batches, target="c")


def returning_codes(graph: Graph) -> Graph:
    """The graph with all codes that it computes as outputs, the last ones first."""
    new = graph.copy()
    new.returns(*[node for node in reversed(new.nodes) if node.op == "quantize"], *new.outputs)
    return new


def test_all_codes_are_those_of_onnx_runtime(art: rg.Artifact) -> None:
    graph = returning_codes(art.graph)
    here, there = TARGETS["c"].lower(graph), onnxruntime.lower(graph, threads=1)
    for image in digits().test.split(1):
        *codes, logits = here([image])
        *wanted, meant = there([image])
        assert len(codes) == 15
        for found, same in zip(codes, wanted, strict=True):
            assert torch.equal(found, same)
        torch.testing.assert_close(logits, meant, rtol=1e-6, atol=5e-6)


def test_the_network_is_as_good_as_before(model: nn.Module, art: rg.Artifact) -> None:
    data = digits()
    found = torch.cat([art(image) for image in data.test.split(1)])
    right, before = (y.argmax(1) == data.test_labels for y in (found, model(data.test)))
    assert right.float().mean() > before.float().mean() - 0.01 > 0.95


def test_the_report_says_what_memory_it_takes(art: rg.Artifact) -> None:
    made = source(art.graph)
    assert art.report.notes[0] == (
        f"on a microcontroller: {made.constants} bytes of constants and {made.arena} bytes of "
        "memory, besides code and stack"
    )
    assert made.model.startswith(
        f"/* Written by Regauge: {made.constants} bytes of constants, {made.arena} bytes of arena."
    )
    assert made.arena == 16 * 16 * 16 + 16 * 8 * 8  # what the first pooling reads and gives
    assert made.decoded == ()


def test_an_artifact_survives_the_disk(art: rg.Artifact, tmp_path: Path) -> None:
    image = digits().test[:1]
    loaded = rg.load(art.save(tmp_path / "out"))
    assert {"model.c", "model.h", "manifest.json"} <= {p.name for p in (tmp_path / "out").iterdir()}
    assert torch.equal(loaded(image), art(image))
    with pytest.raises(ArtifactError):
        loaded.graph.run(image)
    (tmp_path / "out" / "model.c").write_text("int model_run(void) { return 0; }")
    with pytest.raises(ArtifactError):
        rg.load(tmp_path / "out")


def test_floats_need_no_calibration(model: nn.Module) -> None:
    image = digits().test[:1]
    art = rg.compile(model, image, target="c", measure=False)
    torch.testing.assert_close(art(image), model(image), rtol=1e-5, atol=1e-5)


def test_weights_that_meet_floats_are_held_as_floats_and_it_says_so(model: nn.Module) -> None:
    image = digits().test[:1]
    art = rg.compile(model, image, passes="w8", target="c", measure=False)
    assert art.report.notes[1].startswith(
        "weights in codes that are held in float32, for what they meet is no codes: "
    )
    (wanted,) = execute(art.graph, [image])
    torch.testing.assert_close(art(image), wanted, rtol=1e-5, atol=1e-5)


def test_weights_in_few_bits_and_symbolic_sizes_are_errors(model: nn.Module) -> None:
    images = digits().test[:2]
    with pytest.raises(TargetError) as error:
        rg.compile(model, images, passes="w4a16", target="c")
    assert str(error.value) == (
        "target 'c' has no kernel for weights in int4-g32-asym\n"
        "  do  choose weights and activations in eight bits, passes='w8a8', or target='torch', "
        "which decodes them all"
    )
    batch = {"images": {0: torch.export.Dim("batch", min=1, max=8)}}
    with pytest.raises(TargetError) as error:
        rg.compile(model, images, target="c", dynamic_shapes=batch)
    assert str(error.value) == (
        "target 'c' needs every size as a number, and images is f32[batch, 1, 16, 16]\n"
        "  at  images: f32[batch, 1, 16, 16]\n"
        "  do  compile without dynamic_shapes and cache=True, with an example as large as what "
        "shall run"
    )


class Sums(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(1) + 1


def test_an_op_without_a_kernel_is_named_with_the_users_line() -> None:
    with pytest.raises(TargetError) as error:
        rg.compile(Sums().eval(), torch.zeros(2, 3), target="c")
    lines = str(error.value).splitlines()
    assert lines[:2] == [
        "target 'c' has no kernel for cumsum",
        "  at  cumsum: f32[2, 3] = cumsum(x, dim=1)",
    ]
    assert "test_c.py:" in lines[2] and lines[2].endswith("in forward")
    assert lines[3] == (
        "  do  write it with other PyTorch functions, or choose target='onnxruntime'"
    )


# -- on the board ---------------------------------------------------------------------------------


def on_board(graph: Graph, inputs: Tensor, folder: Path) -> Tensor:
    """The only output of a graph for each of many inputs, from a Cortex-M55."""
    made, (output,) = source(graph), [arg.tensor for arg in graph.outputs]
    (folder / "model.c").write_text(made.model)
    (folder / "model.h").write_text(made.header)
    (folder / "input.bin").write_bytes(inputs.numpy().tobytes())
    count = torch.Size(int(size) for size in output.shape).numel()
    kind = {torch.uint8: "uint8_t", torch.float32: "float"}[output.dtype]
    build = [
        *(GCC, "-mcpu=cortex-m55", "-mfloat-abi=hard", "-std=c99", "-O3", "-ffp-contract=off"),
        *("-Wall", "-Wextra", "-Werror", f"-DINPUTS={inputs[0].numel()}", f"-DOUTPUTS={count}"),
        *(f"-DOUTPUT={kind}", "-I.", "model.c", str(BOARD / "board.c"), "-T", BOARD / "board.ld"),
        *("-nostartfiles", "--specs=nosys.specs", "-lm", "-o", "model.elf"),
    ]
    subprocess.run(build, cwd=folder, check=True)
    run = [
        *(QEMU, "-M", "mps3-an547", "-nographic", "-monitor", "none", "-serial", "none"),
        *("-semihosting-config", "enable=on,target=native", "-kernel", "model.elf"),
    ]
    subprocess.run(run, cwd=folder, check=True, capture_output=True, timeout=300)
    found = bytearray((folder / "output.bin").read_bytes())
    return torch.frombuffer(found, dtype=output.dtype).reshape(len(inputs), *output.shape[1:])


@needs_board
def test_codes_on_the_board_are_those_of_onnx_runtime(art: rg.Artifact, tmp_path: Path) -> None:
    images, graph = digits().test[:60], returning_codes(art.graph)
    there = onnxruntime.lower(graph, threads=1)
    for place in (0, len(graph.outputs) - 1):  # the last codes, and the logits
        one = graph.copy()
        one.returns(one.outputs[place])
        one.prune()
        found = on_board(one, images, tmp_path)
        wanted = torch.cat([there([image])[place] for image in images.split(1)])
        if place == 0:
            assert torch.equal(found, wanted)
        else:
            torch.testing.assert_close(found, wanted, rtol=1e-6, atol=5e-6)


SEPARABLE = """
def graph(x: f32[1, 3, 12, 12], *, s: f32[], z: u8[], dw: i8[3, 1, 3, 3], dt: f32[3, 1, 1, 1],
          db: f32[3], r: f32[], v: u8[], pw: i8[24, 3, 1, 1], pt: f32[24, 1, 1, 1], lw: i8[10, 216],
          lt: f32[10, 1], lb: f32[10]):
    q = quantize(x, s, z, dtype=u8)
    a = dequantize(q, s, z)
    dv = dequantize(dw, dt)
    c = conv2d(a, dv, db, stride=(2, 2), padding=(1, 1), groups=3)
    k = quantize(c, r, v, dtype=u8)
    b = dequantize(k, r, v)
    pv = dequantize(pw, pt)
    d = conv2d(b, pv)
    e = relu6(d)
    p = avg_pool2d(e, kernel_size=(2, 2))
    f = reshape(p, shape=(1, 216))
    g = quantize(f, s, z, dtype=u8)
    h = dequantize(g, s, z)
    lv = dequantize(lw, lt)
    l = linear(h, lv, lb)
    y = softmax(l, dim=-1)
    return y
"""


@needs_board
def test_other_kernels_on_the_board(tmp_path: Path) -> None:
    graph, generator = parse(SEPARABLE), torch.Generator().manual_seed(0)
    for name, node in graph.params.items():
        shape = [int(size) for size in node.shape]
        if node.dtype == torch.int8:
            graph.store[name] = torch.randint(-127, 128, shape, generator=generator).to(torch.int8)
        elif node.dtype == torch.uint8:
            graph.store[name] = torch.tensor(120, dtype=torch.uint8)
        else:
            graph.store[name] = torch.rand(shape, generator=generator) * 0.004 + 0.002
    graph.store["s"], graph.store["r"] = torch.tensor(0.03), torch.tensor(0.02)
    inputs = torch.randn(20, 3, 12, 12, generator=generator)
    found = on_board(graph, inputs, tmp_path)
    here, there = TARGETS["c"].lower(graph), onnxruntime.lower(graph, threads=1)
    for image, probabilities in zip(inputs.split(1), found, strict=True):
        assert probabilities.max() < 0.999
        for same in (here([image])[0][0], there([image])[0][0]):
            torch.testing.assert_close(probabilities, same, rtol=1e-5, atol=1e-6)


class Detector(nn.Module):
    """SiLU, halves put together again, a gate, two sizes of image and a head: of detectors."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.part = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(4, 4, 3, 1, 1)
        self.join, self.down = nn.Conv2d(12, 16, 1), nn.Conv2d(16, 16, 3, 2, 1, groups=16)
        self.squeeze, self.excite = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.up, self.head = nn.Conv2d(32, 8, 1), nn.Conv2d(8, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        f = nn.functional
        left, right = f.silu(self.stem(x)).chunk(2, 1)
        right = right + f.leaky_relu(self.part(right), 0.1)
        pooled = f.max_pool2d(right, 5, 1, 2)
        x = f.silu(self.join(torch.cat([left, right, pooled], 1)))
        y = f.hardswish(self.down(x))
        gate = self.excite(f.relu(self.squeeze(y.mean((2, 3), keepdim=True))))
        y = f.interpolate(y * torch.sigmoid(gate), scale_factor=2)
        z = torch.tanh(self.up(torch.cat([y, x], 1)))
        return torch.sigmoid(self.head(z).permute(0, 2, 3, 1)).reshape(1, -1, 3)


@pytest.fixture(scope="module")
def detector() -> tuple[nn.Module, rg.Artifact, Tensor]:
    torch.manual_seed(0)
    net, images = Detector().eval(), torch.randn(40, 3, 16, 16)
    batches = list(images[:16].split(1))
    made = rg.compile(net, batches[0], passes="w8a8", calibration=batches, target="c")
    return net, made, images


def test_a_detector_is_in_codes_from_end_to_end(
    detector: tuple[nn.Module, rg.Artifact, Tensor],
) -> None:
    net, made, images = detector
    text = source(made.graph)
    called = {line.split("(")[0].strip() for line in text.model.splitlines() if line[:4] == " " * 4}
    floats = {name for name in called if name.endswith("_f32")}
    assert not floats and {"table_u8", "copy_u8", "mul_u8", "add_u8", "conv_u8"} <= called
    assert text.decoded == () and text.constants < 4000
    here, there = (TARGETS[t].lower(returning_codes(made.graph)) for t in ("c", "onnxruntime"))
    for image in images.split(1):
        *codes, result = here([image])
        *wanted, meant = there([image])
        assert len(codes) > 20
        for found, same in zip(codes, wanted, strict=True):
            assert torch.equal(found, same)
        torch.testing.assert_close(result, meant, rtol=0, atol=0)
        torch.testing.assert_close(result, net(image), rtol=0, atol=0.01)


@needs_board
def test_a_detector_on_the_board(
    detector: tuple[nn.Module, rg.Artifact, Tensor], tmp_path: Path
) -> None:
    _, made, images = detector
    found = on_board(made.graph, images, tmp_path)
    there = onnxruntime.lower(made.graph, threads=1)
    assert torch.equal(found, torch.cat([there([image])[0] for image in images.split(1)]))


class Attends(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x)


def test_ops_without_a_kernel_are_written_in_others() -> None:
    images, net = digits().test[:2], Attends().eval()
    made = rg.compile(net, images, target="c")
    said = [str(remark) for step in made.report.passes for remark in step.remarks]
    assert any("scaled_dot_product_attention as " in text for text in said)
    torch.testing.assert_close(made(images), net(images), rtol=1e-5, atol=1e-6)

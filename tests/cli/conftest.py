"""A folder with a model file in it, in which the program is run."""

from pathlib import Path
from textwrap import dedent

import pytest

MODEL = dedent(
    """
    import torch

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second = torch.nn.Linear(8, 16), torch.nn.Linear(16, 4)

        def forward(self, x, bias=None):
            y = self.second(torch.relu(self.first(x)))
            return y if bias is None else y + bias

    def bare():
        return Net().eval()

    def pair():
        return bare(), (torch.ones(2, 8),)

    def triple():
        return bare(), (torch.ones(2, 8),), {"bias": torch.ones(4)}

    def full():
        return {"model": bare(), "kwargs": {"x": torch.ones(2, 8)}, "calibration": data()}

    def odd():
        return {"model": bare(), "inputs": 3}

    def wrong():
        return 3

    def fails():
        raise RuntimeError("my own mistake")

    def data():
        return [torch.ones(2, 8), torch.zeros(2, 8)]

    def bad():
        return [torch.full((2, 8), float("nan"))]

    def slow():
        print("started", flush=True)
        import time
        time.sleep(60)

    number = 3
    """
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "nets.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    return tmp_path

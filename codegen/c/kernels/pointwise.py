"""Functions of floats, position by position, written from one table: what each is in C."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Function:
    """What an op computes of ``v``, or of ``u`` and ``v``, and of numbers that are its attributes.

    Attributes:
        text: The expression.
        attributes: Their names, and what they are where an op does not say.
    """

    text: str
    attributes: Mapping[str, float] = field(default_factory=dict[str, float])

    def source(self, name: str, both: bool) -> str:
        """The kernel of this name."""
        given = "".join(f", float {attribute}" for attribute in self.attributes)
        if not both:
            head = f"static void {name}(const float *x, float *y, int count{given})"
            body = ["float v = x[i];", f"y[i] = {self.text};"]
        else:
            head = (
                "/* b is repeated: each of its period numbers stands for so many side by side. */\n"
                f"static void {name}(const float *a, const float *b, float *y, int count, int side,"
                f"\n{' ' * (len(name) + 13)}int period{given})"
            )
            body = ["float u = a[i], v = b[i / side % period];", f"y[i] = {self.text};"]
        lines = "\n".join(f"        {line}" for line in body)
        return f"{head}\n{{\n    for (int i = 0; i < count; i++) {{\n{lines}\n    }}\n}}\n"


_SOFTPLUS = "v > 20 ? v : log1pf(expf(v))"

UNARY: dict[str, Function] = {
    "neg": Function("-v"),
    "abs": Function("fabsf(v)"),
    "sign": Function("(float)((v > 0) - (v < 0))"),
    "square": Function("v * v"),
    "reciprocal": Function("1 / v"),
    "sqrt": Function("sqrtf(v)"),
    "rsqrt": Function("1 / sqrtf(v)"),
    "exp": Function("expf(v)"),
    "log": Function("logf(v)"),
    "sin": Function("sinf(v)"),
    "cos": Function("cosf(v)"),
    "erf": Function("erff(v)"),
    "floor": Function("floorf(v)"),
    "ceil": Function("ceilf(v)"),
    "round": Function("rintf(v)"),
    "tanh": Function("tanhf(v)"),
    "sigmoid": Function("1 / (1 + expf(-v))"),
    "log_sigmoid": Function("fminf(v, 0) - log1pf(expf(-fabsf(v)))"),
    "silu": Function("v / (1 + expf(-v))"),
    "mish": Function(f"v * tanhf({_SOFTPLUS})"),
    "softplus": Function(
        "v * beta > threshold ? v : log1pf(expf(v * beta)) / beta", {"beta": 1, "threshold": 20}
    ),
    "hardsigmoid": Function("fminf(fmaxf(v + 3, 0), 6) / 6"),
    "hardswish": Function("v * fminf(fmaxf(v + 3, 0), 6) / 6"),
    "hardshrink": Function("fabsf(v) > lambd ? v : 0", {"lambd": 0.5}),
    "softshrink": Function(
        "v > lambd ? v - lambd : v < -lambd ? v + lambd : 0", {"lambd": 0.5}
    ),
    "leaky_relu": Function("v > 0 ? v : v * negative_slope", {"negative_slope": 0.01}),
    "elu": Function(
        "scale * (v > 0 ? v : alpha * expm1f(v * input_scale))",
        {"alpha": 1, "scale": 1, "input_scale": 1},
    ),
    "celu": Function("v > 0 ? v : alpha * expm1f(v / alpha)", {"alpha": 1}),
    "selu": Function(
        "1.05070098735548049342f * (v > 0 ? v : 1.67326324235437728481f * expm1f(v))"
    ),
    "gelu": Function("v * 0.5f * (1 + erff(v * 0.707106781f))"),
    "gelu_tanh": Function(
        "v * 0.5f * (1 + tanhf(0.797884561f * (v + 0.044715f * v * v * v)))"
    ),
}  # fmt: skip

BINARY: dict[str, Function] = {
    "add": Function("u + v"),
    "sub": Function("u - v"),
    "mul": Function("u * v"),
    "div": Function("u / v"),
    "pow": Function("powf(u, v)"),
    "maximum": Function("u > v ? u : v"),
    "minimum": Function("u < v ? u : v"),
    "prelu": Function("u > 0 ? u : u * v"),
}

KERNELS = {
    f"{name}_f32": function.source(f"{name}_f32", table is BINARY)
    for table in (UNARY, BINARY)
    for name, function in table.items()
}

"""The selective scan in standard ONNX operators, as the text of a model-local function that the exporter inlines.

`eqmambair.ops.selective_scan` says what is computed. A path of l tokens is cut into R lanes of T = ceil(l / R) tokens behind each other; an
ONNX Scan of T steps walks all lanes side by side, so that a step's operators have enough numbers to work on. Three walks give the result:

1. every lane from a state of zero, which yields what the lane adds to the state;
2. lane after lane, R steps: the state at the entry of each; the decay over a lane is exp(A sum of its steps);
3. every lane again, from its true state; this one yields the results.

Only products of decays and sums are formed, and every exponent is at most 0: no step size is too large. Lanes that reach beyond the last
token repeat it, which nothing before sees. The state is float32 whatever the type of the tokens. Nothing of the size tokens x channels x
states ever exists.

R is as large as needed for about `WORK` numbers in a step, and no larger than the square root of l. Without an order there are many short
paths side by side (the lines of `layers.corner_scan`): they are walked in one go, token by token.
"""

from dataclasses import dataclass

#: Numbers of the state that one step of a walk works on, if the path is long enough; measured in docs/onnx.md.
WORK = 1 << 16

DOMAIN = "eqmambair"
OPSET = 18


@dataclass(frozen=True)
class ScanForm:
    """Which of the scan's inputs there are, and what is known of their sizes: one function of the model.

    Attributes:
        order: dimensions of `order`: 2 for (g, l), 3 for (b, g, l), 0 for none.
        skip, bias: whether D and delta_bias are given.
        softplus: whether the step goes through softplus.
        one_state: whether N is 1.
        half: whether the tokens are float16.
    """

    order: int
    skip: bool
    bias: bool
    softplus: bool
    one_state: bool
    half: bool

    @property
    def name(self) -> str:
        """The function's name."""
        flags = "".join(str(int(flag)) for flag in (self.skip, self.bias, self.softplus, self.one_state, self.half))
        return f"SelectiveScan_{self.order}_{flags}"

    @property
    def inputs(self) -> tuple[str, ...]:
        """The function's inputs, named as those of `eqmambair.ops.selective_scan`."""
        given = {"D": self.skip, "delta_bias": self.bias, "order": bool(self.order)}
        return tuple(name for name in ("u", "delta", "A", "B", "C", "D", "delta_bias", "order") if given.get(name, True))

    def function(self) -> str:
        """The function in ONNX's text form; shapes in its comments are those of `eqmambair.ops.selective_scan`."""
        body = _SIZES + (_ORDERED if self.order else _UNORDERED) + _RESULT
        replaced = {
            "@STEP": "  biased = @BIASED\n" + (_SOFTPLUS if self.softplus else "  step = Identity(biased)\n"),
            "@BIASED": "Add(raw, delta_bias)" if self.bias else "Identity(raw)",
            "@PATH": "Unsqueeze(order_64, _0)" if self.order == 2 else "Identity(order_64)",
            "@OUTPUT": "Mul(C_t, h_t)" if self.one_state else "MatMul(C_t, h_t)",
            "@SKIPPED": "Add(scanned, skip)" if self.skip else "Identity(scanned)",
            "@SKIP": "  u_wide = Cast<to=1>(u)\n  skip = Mul(D, u_wide)\n" if self.skip else "",
            "@TYPE": "10" if self.half else "1",
            "@WORK": str(WORK),
        }
        for mark, text in replaced.items():
            body = body.replace(mark, text)
        return f'<domain: "{DOMAIN}", opset_import: ["": {OPSET}]>\n{self.name} ({", ".join(self.inputs)}) => (y)\n{{\n{body}}}\n'


# b, l, g, d, n: sizes as 1-D tensors; the same with _0d as scalars.
_SIZES = """
  _0 = Constant<value_ints=[0]>()
  _1 = Constant<value_ints=[1]>()
  _2 = Constant<value_ints=[2]>()
  _minus_1 = Constant<value_ints=[-1]>()
  zero_0d = Constant<value_int=0>()
  one_0d = Constant<value_int=1>()
  nothing = Constant<value_float=0.0>()
  one_float = Constant<value_float=1.0>()
  b = Shape<start=0, end=1>(delta)
  l = Shape<start=1, end=2>(delta)
  g = Shape<start=2, end=3>(delta)
  d = Shape<start=3, end=4>(delta)
  n = Shape<start=3, end=4>(B)
  A_t = Transpose<perm=[0, 2, 1]>(A)
"""

# softplus(x) = max(x, 0) + log1p(e) with e = exp(-|x|); w = 1 + e is rounded, and log1p(e) = log(w) + (e - (w - 1)) / w up to that
# rounding's square. Runtimes compute these operators many numbers at a time, and Softplus one by one.
_SOFTPLUS = """
  magnitude = Abs(biased)
  below = Neg(magnitude)
  e = Exp(below)
  w = Add(one_float, e)
  log_w = Log(w)
  w_less_1 = Sub(w, one_float)
  lost = Sub(e, w_less_1)
  correction = Div(lost, w)
  log1p = Add(log_w, correction)
  above = Relu(biased)
  step = Add(above, log1p)
"""

# One token of every path or lane: h_t = exp(step A) h + B (step u), then the result; x_t is step u. States lie as (..., n, d).
_TOKEN = """
    exponent = Mul(step_t, A_t)
    decay_t = Exp(exponent)
    kept = Mul(decay_t, h)
    added = Mul(B_t, x_t)
    h_t = Add(kept, added)
"""

_ORDERED = (
    """
  four = Constant<value_ints=[4]>()
  five = Constant<value_ints=[5]>()
  work = Constant<value_ints=[@WORK]>()
  bg = Mul(b, g)
  nd = Mul(n, d)
  numbers = Mul(bg, nd)
  enough = Div(work, numbers)
  l_float = Cast<to=1>(l)
  root_float = Sqrt(l_float)
  root = Cast<to=7>(root_float)
  fewer = Min(enough, root)
  R = Max(fewer, _1)
  l_and_R = Add(l, R)
  l_up = Sub(l_and_R, _1)
  T = Div(l_up, R)
  grid = Mul(T, R)
  grid_0d = Squeeze(grid)
  b_0d = Squeeze(b)
  g_0d = Squeeze(g)
  l_0d = Squeeze(l)

  every = Range(zero_0d, grid_0d, one_0d)
  R_T = Concat<axis=0>(R, T)
  by_lane = Reshape(every, R_T)
  by_step = Transpose<perm=[1, 0]>(by_lane)
  last = Sub(l, _1)
  place = Min(by_step, last)
  order_64 = Cast<to=7>(order)
  path = @PATH
  visited = Gather<axis=2>(path, place)
  token = Transpose<perm=[2, 3, 0, 1]>(visited)

  batch = Range(zero_0d, b_0d, one_0d)
  batch_column = Unsqueeze(batch, _1)
  group = Range(zero_0d, g_0d, one_0d)
  first = Mul(batch_column, l)
  pixel = Add(first, token)
  pixel_g = Mul(pixel, g)
  row = Add(pixel_g, group)
  u_groups = Shape<start=2, end=3>(u)
  u_last = Sub(u_groups, _1)
  u_group = Min(group, u_last)
  pixel_u = Mul(pixel, u_groups)
  u_row = Add(pixel_u, u_group)

  rows_of_d = Concat<axis=0>(_minus_1, d)
  rows_of_n = Concat<axis=0>(_minus_1, n)
  delta_rows = Reshape(delta, rows_of_d)
  raw_read = Gather(delta_rows, row)
  raw = Cast<to=1>(raw_read)
@STEP
  u_rows = Reshape(u, rows_of_d)
  u_read = Gather(u_rows, u_row)
  u_path = Cast<to=1>(u_read)
  x = Mul(u_path, step)
  steps = Unsqueeze(step, four)
  xs = Unsqueeze(x, four)
  B_rows = Reshape(B, rows_of_n)
  B_read = Gather(B_rows, row)
  B_path = Cast<to=1>(B_read)
  Bs = Unsqueeze(B_path, five)
  C_rows = Reshape(C, rows_of_n)
  C_read = Gather(C_rows, row)
  C_path = Cast<to=1>(C_read)
  Cs = Unsqueeze(C_path, four)

  lane_states = Concat<axis=0>(R, b, g, n, d)
  zeros = Expand(nothing, lane_states)
  ends = Scan<num_scan_inputs=3, body = lane
    (float[?,?,?,?,?] h, float[?,?,?,?,?] step_t, float[?,?,?,?,?] x_t, float[?,?,?,?,?] B_t) => (float[?,?,?,?,?] h_t)
    {"""
    + _TOKEN
    + """}>(zeros, steps, xs, Bs)
  total = ReduceSum<keepdims=0>(steps, _0)
  total_exponent = Mul(total, A_t)
  lane_decay = Exp(total_exponent)
  states = Concat<axis=0>(b, g, n, d)
  zero_state = Expand(nothing, states)
  final, entries = Scan<num_scan_inputs=2, body = join
    (float[?,?,?,?] h, float[?,?,?,?] decay_r, float[?,?,?,?] end_r) => (float[?,?,?,?] h_r, float[?,?,?,?] entry)
    { entry = Identity(h) kept = Mul(decay_r, h) h_r = Add(kept, end_r) }>(zero_state, lane_decay, ends)
  final_states, y_lanes = Scan<num_scan_inputs=4, body = walk
    (float[?,?,?,?,?] h, float[?,?,?,?,?] step_t, float[?,?,?,?,?] x_t, float[?,?,?,?,?] B_t, float[?,?,?,?,?] C_t)
    => (float[?,?,?,?,?] h_t, float[?,?,?,?,?] y_t)
    {"""
    + _TOKEN
    + """    y_t = @OUTPUT
    }>(entries, steps, xs, Bs, Cs)

  y_rows = Reshape(y_lanes, rows_of_d)
  numbered = Range(zero_0d, l_0d, one_0d)
  path_shape = Shape(path)
  number = Expand(numbered, path_shape)
  visited_at = ScatterElements<axis=2>(path, path, number)
  at = Transpose<perm=[0, 2, 1]>(visited_at)
  r = Div(at, T)
  r_T = Mul(r, T)
  t = Sub(at, r_T)
  t_R = Mul(t, R)
  lane_row = Add(t_R, r)
  lane_row_b = Mul(lane_row, b)
  batch_cube = Unsqueeze(batch_column, _1)
  of_batch = Add(lane_row_b, batch_cube)
  of_batch_g = Mul(of_batch, g)
  y_row = Add(of_batch_g, group)
  scanned = Gather(y_rows, y_row)
"""
)

_UNORDERED = (
    """
  three = Constant<value_ints=[3]>()
  four = Constant<value_ints=[4]>()
  raw = Cast<to=1>(delta)
@STEP
  u_float = Cast<to=1>(u)
  x = Mul(u_float, step)
  step_first = Transpose<perm=[1, 0, 2, 3]>(step)
  steps = Unsqueeze(step_first, three)
  x_first = Transpose<perm=[1, 0, 2, 3]>(x)
  xs = Unsqueeze(x_first, three)
  B_float = Cast<to=1>(B)
  B_first = Transpose<perm=[1, 0, 2, 3]>(B_float)
  Bs = Unsqueeze(B_first, four)
  C_float = Cast<to=1>(C)
  C_first = Transpose<perm=[1, 0, 2, 3]>(C_float)
  Cs = Unsqueeze(C_first, three)
  states = Concat<axis=0>(b, g, n, d)
  zeros = Expand(nothing, states)
  final_states, y_first = Scan<num_scan_inputs=4, body = walk
    (float[?,?,?,?] h, float[?,?,?,?] step_t, float[?,?,?,?] x_t, float[?,?,?,?] B_t, float[?,?,?,?] C_t)
    => (float[?,?,?,?] h_t, float[?,?,?,?] y_t)
    {"""
    + _TOKEN
    + """    y_t = @OUTPUT
    }>(zeros, steps, xs, Bs, Cs)
  y_tokens = Squeeze(y_first, three)
  scanned = Transpose<perm=[1, 0, 2, 3]>(y_tokens)
"""
)

_RESULT = """
@SKIP
  y_wide = @SKIPPED
  y = Cast<to=@TYPE>(y_wide)
"""

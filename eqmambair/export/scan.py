"""The selective scan in standard ONNX operators, as the text of a model-local function that the exporter inlines.

`eqmambair.ops.selective_scan` says what is computed. A path of l tokens is cut into K = ceil(l / T) pieces of T tokens, and an ONNX Scan
goes from piece to piece. What needs no earlier state is computed for a whole piece at once, by operators that work on many numbers: the
steps, the decays exp(step A), what each token adds to the state, and in the end the results. Between them a second Scan walks through the
tokens of the piece with one product and one sum each, which is all that must be done one after the other.

States are made in the order of the definition, and every exponent is at most 0: no step size is too large. The last piece repeats the last
token, which nothing before sees. The state is float32 whatever the type of the tokens. Nothing of the size tokens x channels x states ever
exists: T is as large as a piece of about `WORK` numbers allows.
"""

from dataclasses import dataclass

#: Numbers (tokens x paths x channels x states) of a piece, if a token has fewer; measured in docs/onnx.md.
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
        rows, write = (_ROWS_ORDERED, _WRITE_ORDERED) if self.order else (_ROWS, _WRITE)
        body = _SIZES + rows + _WALK + write + _RESULT
        replaced = {
            "@STEP": "  biased = @BIASED\n" + (_SOFTPLUS if self.softplus else "  step = Identity(biased)\n"),
            "@BIASED": "Add(raw, delta_bias)" if self.bias else "Identity(raw)",
            "@PATH": "Unsqueeze(order_64, _0)" if self.order == 2 else "Identity(order_64)",
            "@RESULTS": "Mul(C_piece, states)" if self.one_state else "MatMul(C_piece, states)",
            "@SKIPPED": "Add(scanned, skip)" if self.skip else "Identity(scanned)",
            "@SKIP": "  u_wide = Cast<to=1>(u)\n  skip = Mul(D, u_wide)\n" if self.skip else "",
            "@RANK": "?,?,?" if self.order else "?",
            "@TYPE": "10" if self.half else "1",
            "@WORK": str(WORK),
        }
        for mark, text in replaced.items():
            body = body.replace(mark, text)
        return f'<domain: "{DOMAIN}", opset_import: ["": {OPSET}]>\n{self.name} ({", ".join(self.inputs)}) => (y)\n{{\n{body}}}\n'


# b, l, g, d, n: sizes as 1-D tensors; the same with _0d as scalars. place: the step of the path that each of the K T tokens is, (K T).
_SIZES = """
  _0 = Constant<value_ints=[0]>()
  _1 = Constant<value_ints=[1]>()
  _3 = Constant<value_ints=[3]>()
  _4 = Constant<value_ints=[4]>()
  _minus_1 = Constant<value_ints=[-1]>()
  zero_0d = Constant<value_int=0>()
  one_0d = Constant<value_int=1>()
  nothing = Constant<value_float=0.0>()
  one_float = Constant<value_float=1.0>()
  work = Constant<value_ints=[@WORK]>()
  b = Shape<start=0, end=1>(delta)
  l = Shape<start=1, end=2>(delta)
  g = Shape<start=2, end=3>(delta)
  d = Shape<start=3, end=4>(delta)
  n = Shape<start=3, end=4>(B)
  bg = Mul(b, g)
  nd = Mul(n, d)
  numbers = Mul(bg, nd)
  many = Div(work, numbers)
  some = Max(many, _1)
  T = Min(some, l)
  l_and_T = Add(l, T)
  l_up = Sub(l_and_T, _1)
  K = Div(l_up, T)
  KT = Mul(K, T)
  KT_0d = Squeeze(KT)
  every = Range(zero_0d, KT_0d, one_0d)
  last = Sub(l, _1)
  place = Min(every, last)
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

# What a piece is read from by numbers of rows: delta_rows, u_rows, B_rows, C_rows; and the rows of each piece: (K, T) of (l, b, g, _).
_ROWS = """
  delta_rows = Transpose<perm=[1, 0, 2, 3]>(delta)
  u_rows = Transpose<perm=[1, 0, 2, 3]>(u)
  B_rows = Transpose<perm=[1, 0, 2, 3]>(B)
  C_rows = Transpose<perm=[1, 0, 2, 3]>(C)
  K_T = Concat<axis=0>(K, T)
  row_pieces = Reshape(place, K_T)
  u_row_pieces = Identity(row_pieces)
"""

# The same with an order: (K, T, b, g) of (b l g, _).
_ROWS_ORDERED = """
  order_64 = Cast<to=7>(order)
  path = @PATH
  visited = Gather<axis=2>(path, place)
  token = Transpose<perm=[2, 0, 1]>(visited)
  b_0d = Squeeze(b)
  g_0d = Squeeze(g)
  l_0d = Squeeze(l)
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
  K_T_b_g = Concat<axis=0>(K, T, b, g)
  row_pieces = Reshape(row, K_T_b_g)
  u_row_pieces = Reshape(u_row, K_T_b_g)

  rows_of_d = Concat<axis=0>(_minus_1, d)
  rows_of_n = Concat<axis=0>(_minus_1, n)
  delta_rows = Reshape(delta, rows_of_d)
  u_rows = Reshape(u, rows_of_d)
  B_rows = Reshape(B, rows_of_n)
  C_rows = Reshape(C, rows_of_n)
"""

# From rows to results y_path, (K T, b, g, d). A piece lies as (T, b, g, n, d), with 1 in the place of what it lacks.
_WALK = """
  A_t = Transpose<perm=[0, 2, 1]>(A)
  state_shape = Concat<axis=0>(b, g, n, d)
  start = Expand(nothing, state_shape)
  end, y_pieces = Scan<num_scan_inputs=2, body = piece
    (float[?,?,?,?] entry, int64[@RANK] row_piece, int64[@RANK] u_row_piece) => (float[?,?,?,?] exit, float[?,?,?,?,?] y_piece)
    {
      delta_read = Gather(delta_rows, row_piece)
      raw = Cast<to=1>(delta_read)
@STEP
      u_read = Gather(u_rows, u_row_piece)
      u_piece = Cast<to=1>(u_read)
      x = Mul(u_piece, step)
      step_piece = Unsqueeze(step, _3)
      x_piece = Unsqueeze(x, _3)
      B_read = Gather(B_rows, row_piece)
      B_wide = Cast<to=1>(B_read)
      B_piece = Unsqueeze(B_wide, _4)
      C_read = Gather(C_rows, row_piece)
      C_wide = Cast<to=1>(C_read)
      C_piece = Unsqueeze(C_wide, _3)
      exponents = Mul(step_piece, A_t)
      decays = Exp(exponents)
      added = Mul(B_piece, x_piece)
      exit, kept = Scan<num_scan_inputs=2, body = walk
        (float[?,?,?,?] h, float[?,?,?,?] decay_t, float[?,?,?,?] added_t) => (float[?,?,?,?] h_t, float[?,?,?,?] kept_t)
        { kept_t = Mul(decay_t, h) h_t = Add(kept_t, added_t) }>(entry, decays, added)
      states = Add(kept, added)
      y_piece = @RESULTS
    }>(start, row_pieces, u_row_pieces)
  tokens_of_d = Concat<axis=0>(KT, b, g, d)
  y_path = Reshape(y_pieces, tokens_of_d)
"""

_WRITE = """
  y_tokens = Slice(y_path, _0, l, _0)
  scanned = Transpose<perm=[1, 0, 2, 3]>(y_tokens)
"""

_WRITE_ORDERED = """
  y_rows = Reshape(y_path, rows_of_d)
  numbered = Range(zero_0d, l_0d, one_0d)
  path_shape = Shape(path)
  number = Expand(numbered, path_shape)
  visited_at = ScatterElements<axis=2>(path, path, number)
  at = Transpose<perm=[0, 2, 1]>(visited_at)
  at_b = Mul(at, b)
  batch_cube = Unsqueeze(batch_column, _1)
  of_batch = Add(at_b, batch_cube)
  of_batch_g = Mul(of_batch, g)
  y_row = Add(of_batch_g, group)
  scanned = Gather(y_rows, y_row)
"""

_RESULT = """
@SKIP
  y_wide = @SKIPPED
  y = Cast<to=@TYPE>(y_wide)
"""

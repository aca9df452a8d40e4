"""What the orders of Spectral VMamba need and ONNX lacks, as texts of model-local functions of standard operators, as in `export.scan`.

`DISTANCES`: of all pairs of tokens. Every pair is computed in the same way, so that pairs that are alike have the same bits, as with torch.

`EIGENVECTORS`: `eqmambair.ops.spectral.smallest_eigenvectors` says what is computed, but a matrix that is not finite has no stand-in. It is
Jacobi's method: a turn of two lines p and q of a matrix makes its entry (p, q) zero, and turning all pairs again and again leaves the
eigenvalues on the diagonal; the product of the turns holds the eigenvectors. Half of all lines are paired with the other half and turned at
once; then the partners change as in a round of a tournament, so that after n - 1 such steps, a sweep, every two lines have met. Sweeps go
on until nothing off the diagonal is above 1e-13 of the largest entry; what is left is far smaller then, for a late sweep squares it.
A matrix of odd size, or of less than four, gets lines of zeros with a diagonal above every eigenvalue, which stay last.
"""

from eqmambair.export.scan import DOMAIN, OPSET

_HEAD = f'<domain: "{DOMAIN}", opset_import: ["": {OPSET}]>\n'

DISTANCES = "TokenDistances"
EIGENVECTORS = "SmallestEigenvectors"
# x: (b, n, d); distances: (b, n, n).
_DISTANCES = """
  _2 = Constant<value_ints=[2]>()
  token_first = Transpose<perm=[1, 0, 2]>(x)
  tokens = Unsqueeze(token_first, _2)
  lines = Scan<num_scan_inputs=1, body = line (double[?,?,?] token) => (double[?,?] distance)
    { apart = Sub(x, token) squares = Mul(apart, apart) summed = ReduceSum<keepdims=0>(squares, _2) distance = Sqrt(summed) }>(tokens)
  distances = Transpose<perm=[1, 0, 2]>(lines)
"""

# b, n: sizes as 1-D tensors; those with _0d as scalars. N: n with the added lines; h: half of it. M: the matrix beside the product of the
# turns, transposed, (b, N, 2N); its first h lines are paired with its last h. No matrix needs 30 sweeps; one that is not finite ends after
# the first.
_EIGENVECTORS = """
  _0 = Constant<value_ints=[0]>()
  _1 = Constant<value_ints=[1]>()
  _2 = Constant<value_ints=[2]>()
  _4 = Constant<value_ints=[4]>()
  minus_one = Constant<value_ints=[-1]>()
  zero_0d = Constant<value_int=0>()
  one_0d = Constant<value_int=1>()
  nothing_float = Constant<value_float=0.0>()
  nothing = Cast<to=11>(nothing_float)
  one_float = Constant<value_float=1.0>()
  one = Cast<to=11>(one_float)
  least_float = Constant<value_float=1e-37>()
  least = Cast<to=11>(least_float)
  tolerance_float = Constant<value_float=1e-13>()
  tolerance = Cast<to=11>(tolerance_float)
  b = Shape<start=0, end=1>(matrices)
  n = Shape<start=1, end=2>(matrices)
  odd = Mod(n, _2)
  even = Add(n, odd)
  N = Max(even, _4)
  h = Div(N, _2)
  N_0d = Squeeze(N)
  h_0d = Squeeze(h)

  added = Sub(N, n)
  pads = Concat<axis=0>(_0, _0, _0, _0, added, added)
  wider = Pad(matrices, pads, nothing)
  sizes = Abs(wider)
  in_line = ReduceSum<keepdims=0>(sizes, _2)
  bound = ReduceMax<keepdims=1>(in_line, _1)
  above = Add(bound, one)
  number = Range(zero_0d, N_0d, one_0d)
  is_added = GreaterOrEqual(number, n)
  last = Where(is_added, above, nothing)
  column = Unsqueeze(number, _1)
  diagonal = Equal(column, number)
  unit = Cast<to=11>(diagonal)
  last_column = Unsqueeze(last, _2)
  last_lines = Mul(last_column, unit)
  A = Add(wider, last_lines)
  largest = ReduceMax<keepdims=0>(sizes)
  small = Mul(largest, tolerance)
  b_N_N = Concat<axis=0>(b, N, N)
  turns = Expand(unit, b_N_N)
  M_start = Concat<axis=2>(A, turns)
  others = Sub(one, unit)

  h_more = Add(h, _1)
  h_more_0d = Squeeze(h_more)
  h_less = Sub(h, _1)
  h_less_0d = Squeeze(h_less)
  up = Range(one_0d, h_less_0d, one_0d)
  down = Range(h_more_0d, N_0d, one_0d)
  partners = Concat<axis=0>(_0, h, up, down, h_less)
  upper = Range(zero_0d, h_0d, one_0d)
  lower = Add(upper, h)
  twice_N = Add(N, N)
  line_p = Mul(upper, twice_N)
  line_q = Mul(lower, twice_N)
  pp = Add(line_p, upper)
  pq = Add(line_p, lower)
  qq = Add(line_q, lower)
  b_all = Concat<axis=0>(b, minus_one)
  parts = Concat<axis=0>(h, h, N)
  steps = Sub(N, _1)
  steps_0d = Squeeze(steps)
  true_0d = Equal(zero_0d, zero_0d)
  sweeps = Constant<value_int=30>()
  M_end = Loop<body = sweep (int64 i, bool more, double[?,?,?] M) => (bool more_next, double[?,?,?] M_swept) {
    M_swept = Loop<body = step (int64 j, bool on, double[?,?,?] M_in) => (bool on_next, double[?,?,?] M_out) {
      on_next = Identity(on)
      flat = Reshape(M_in, b_all)
      a_pp = Gather<axis=1>(flat, pp)
      a_pq = Gather<axis=1>(flat, pq)
      a_qq = Gather<axis=1>(flat, qq)
      difference = Sub(a_qq, a_pp)
      apart = Abs(difference)
      doubled = Add(a_pq, a_pq)
      squared_d = Mul(difference, difference)
      squared_a = Mul(doubled, doubled)
      squares = Add(squared_d, squared_a)
      root = Sqrt(squares)
      apart_root = Add(apart, root)
      divisor = Add(apart_root, least)
      size = Div(doubled, divisor)
      falls = Less(difference, nothing)
      opposite = Neg(size)
      tangent = Where(falls, opposite, size)
      tangent_2 = Mul(tangent, tangent)
      secant_2 = Add(tangent_2, one)
      secant = Sqrt(secant_2)
      cosine = Div(one, secant)
      sine = Mul(tangent, cosine)

      c_line = Unsqueeze(cosine, _2)
      s_line = Unsqueeze(sine, _2)
      top, bottom = Split<axis=1, num_outputs=2>(M_in)
      c_top = Mul(c_line, top)
      s_bottom = Mul(s_line, bottom)
      s_top = Mul(s_line, top)
      c_bottom = Mul(c_line, bottom)
      top_turned = Sub(c_top, s_bottom)
      bottom_turned = Add(s_top, c_bottom)
      lines = Concat<axis=1>(top_turned, bottom_turned)
      lines_next = Gather<axis=1>(lines, partners)

      c_column = Unsqueeze(cosine, _1)
      s_column = Unsqueeze(sine, _1)
      left, right, turns_next = Split<axis=2>(lines_next, parts)
      c_left = Mul(c_column, left)
      s_right = Mul(s_column, right)
      s_left = Mul(s_column, left)
      c_right = Mul(c_column, right)
      left_turned = Sub(c_left, s_right)
      right_turned = Add(s_left, c_right)
      columns = Concat<axis=2>(left_turned, right_turned)
      columns_next = Gather<axis=2>(columns, partners)
      M_out = Concat<axis=2>(columns_next, turns_next)
    }>(steps_0d, true_0d, M)
    A_swept, turns_swept = Split<axis=2, num_outputs=2>(M_swept)
    off = Mul(A_swept, others)
    off_size = Abs(off)
    off_largest = ReduceMax<keepdims=0>(off_size)
    more_next = Greater(off_largest, small)
  }>(sweeps, true_0d, M_start)

  A_end, turns_end = Split<axis=2, num_outputs=2>(M_end)
  on_diagonal = Mul(A_end, unit)
  found = ReduceSum<keepdims=0>(on_diagonal, _2)
  ascending, places = TopK<axis=1, largest=0, sorted=1>(found, n)
  values = Identity(ascending)
  wanted = Slice(places, _0, count, _1)
  wanted_column = Unsqueeze(wanted, _2)
  rows = GatherND<batch_dims=1>(turns_end, wanted_column)
  rows_n = Slice(rows, _0, n, _2)
  vectors = Transpose<perm=[0, 2, 1]>(rows_n)
"""

FUNCTIONS = {
    DISTANCES: f"{_HEAD}{DISTANCES} (x) => (distances)\n{{{_DISTANCES}}}\n",
    EIGENVECTORS: f"{_HEAD}{EIGENVECTORS} (matrices, count) => (values, vectors)\n{{{_EIGENVECTORS}}}\n",
}

// A program around the CPU kernels of one instruction set, for processors that are only emulated here: sizes and inputs come in on standard
// input, the result and its gradients go out on standard output, all as the machine has them in memory.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cpu/kernels.h"

using namespace eqmambair;

namespace {

constexpr int64_t chunk = 64;

template <class T>
struct Array {
  explicit Array(int64_t size) : values(size > 0 ? size : 1), size(size) {}
  T* read() {
    if (std::fread(values.data(), sizeof(T), size, stdin) != static_cast<size_t>(size)) std::abort();
    return values.data();
  }
  void write() const { std::fwrite(values.data(), sizeof(T), size, stdout); }
  std::vector<T> values;
  int64_t size;
};

}  // namespace

int main() {
  Array<int64_t> sizes(4);
  const int64_t* const s = sizes.read();
  const int64_t length = s[0], groups = s[1], channels = s[2], states = s[3], row = groups * channels, maps = groups * states;
  const int64_t chunks = divide_up(length, chunk), blocks = divide_up(channels, backward_block);
  Array<float> u(length * row), delta(u.size), A(row * states), B(length * maps), C(B.size), D(row), bias(row), grad(u.size);
  Array<int32_t> order(groups * length);
  for (auto* each : {&u, &delta, &A, &B, &C, &D, &bias, &grad}) each->read();
  order.read();
  const ScanInputs in{Type::f32, 1, length, groups, channels, states, {u.values.data(), 0, row, channels}, {delta.values.data(), 0, row, channels},
                      {B.values.data(), 0, maps, states}, {C.values.data(), 0, maps, states}, A.values.data(), D.values.data(), bias.values.data(), order.values.data(), 0, true, chunk};
  Array<float> y(u.size), kept(chunks * row * states), du(u.size), ddelta(u.size), dB(blocks * B.size), dC(dB.size), dA(A.size), dD(row),
      dbias(row);
  const auto run = [](int64_t tasks, int64_t bytes, const auto& task) {
    void* const scratch = std::aligned_alloc(64, divide_up(bytes + 1, 64) * 64);
    for (int64_t i = 0; i < tasks; i++) task(i, scratch);
    std::free(scratch);
  };
  const ScanForward forwards{in, y.values.data(), kept.values.data(), false};
  run(groups, baseline::forward_scratch(in, channels), [&](int64_t i, void* scratch) { baseline::forward(forwards, channels, i, scratch); });
  const ScanBackward backwards{in, {grad.values.data(), 0, row, channels}, kept.values.data(), du.values.data(), ddelta.values.data(), false,
                               dB.values.data(), dC.values.data(), dA.values.data(), dD.values.data(), dbias.values.data()};
  run(groups * blocks, baseline::backward_scratch(in), [&](int64_t i, void* scratch) { baseline::backward(backwards, i, scratch); });
  for (const auto* each : {&y, &du, &ddelta, &dA, &dB, &dC, &dD, &dbias}) each->write();
}

#include "kernels/emulate.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <thread>

#include "datasets/capture.hpp"
#include "reference/emulate.hpp"
#include "tests/kernels/calls.hpp"
#include "tests/kernels/variants.hpp"

namespace sage2 {
namespace {

using cuda::DeviceBuffer;
using cuda::LoopCounts;
using cuda::Stream;
using testing::device_calls::all_variants;
using testing::device_calls::Call;
using testing::device_calls::CallSpec;
using testing::device_calls::first_difference;

/// Output and counts of all heads against the CPU's, bit for bit. rows: [heads][count], or empty for all rows.
void expect_same(const Call& call, const Variant& variant, const std::string& what, const Stream& stream,
                 const std::vector<std::vector<std::uint32_t>>& rows = {}) {
  const std::size_t heads = call.heads().size();
  const std::size_t count = rows.empty() ? call.heads().front().q.rows : rows.front().size();
  const std::size_t dim = call.heads().front().v.cols;
  DeviceBuffer<std::uint32_t> selected;
  if (!rows.empty()) {
    std::vector<std::uint32_t> flat;
    for (const auto& r : rows) flat.insert(flat.end(), r.begin(), r.end());
    selected = DeviceBuffer<std::uint32_t>(flat.size(), stream.get());
    selected.upload(flat);
    stream.synchronize();
  }
  const auto operands = cuda::quantize(call.device(), variant, stream.get());
  DeviceBuffer<float> o(heads * count * dim, stream.get());
  DeviceBuffer<LoopCounts> counts(heads, stream.get());
  counts.zero();
  cuda::emulate(call.device(), variant, operands, {selected.data(), static_cast<std::int64_t>(count)}, o.data(),
                counts.data(), stream.get());
  const auto got = o.download();
  const auto got_counts = counts.download();
  const auto saturated = operands.saturated.download();
  for (std::size_t h = 0; h < heads; ++h) {
    const auto truth =
        emulate(call.heads()[h], variant, rows.empty() ? std::span<const std::uint32_t>{} : std::span(rows[h]));
    const auto difference = first_difference(got.data() + h * count * dim, truth.o.data.data(), count, dim);
    EXPECT_EQ(difference, "") << "head " << h << ", " << canonical(variant) << ", " << what;
    EXPECT_EQ(got_counts[h].p_underflow, truth.p_underflow) << "head " << h << ", " << canonical(variant);
    EXPECT_EQ(got_counts[h].p_total, truth.p_total) << "head " << h << ", " << canonical(variant);
    EXPECT_EQ(got_counts[h].saturated + saturated[h], truth.saturated) << "head " << h << ", " << canonical(variant);
    if (!difference.empty()) return;  // one head tells enough
  }
}

void expect_same(const CallSpec& spec, const std::vector<Variant>& variants, const Call::Change& change = {}) {
  const Stream stream;
  const Call call(spec, stream.get(), change);
  for (const auto& variant : variants) expect_same(call, variant, spec.name(), stream);
}

std::vector<Variant> parsed(const std::vector<const char*>& texts) {
  std::vector<Variant> out;
  for (const char* text : texts) out.push_back(parse_variant(text));
  return out;
}

/// Variants that between them use every arithmetic, flush and scale of the loop.
std::vector<Variant> loop_variants() {
  return parsed({"exact", "fp16", "fp16@hopper", "sage1", "sage2-4b", "sage2-4b-v1", "sage2pp-8b", "sage2-8b@blackwell",
                 "fa3-fp8", "fp16:qk=bf16,p=bf16,v=bf16", "sage2-8b:p=int8,v=int8,v_outliers=split",
                 "sage2-8b:v_gran=per_block", "sage2-8b:v_gran=per_block,pv_accum=exact", "sage2-8b:p=exact",
                 "sage2-4b:v_outliers=split,pv_accum=fp32", "sage2pp-8b:pv_accum=fp16"});
}

TEST(EmulateOnDevice, AgreesForEveryVariant) {
  SAGE2_NEEDS_GPU();
  for (const int mask : {0, 1}) {
    CallSpec spec;
    spec.mask = mask;
    expect_same(spec, all_variants());
  }
}

TEST(EmulateOnDevice, AgreesForEveryLengthAndMask) {
  SAGE2_NEEDS_GPU();
  const std::pair<int, int> lengths[] = {{1, 1},    {1, 300},  {31, 33}, {33, 31},  {63, 64},   {64, 127},  {65, 129},
                                         {127, 65}, {129, 63}, {300, 1}, {300, 90}, {128, 128}, {140, 300}, {300, 300}};
  std::uint64_t seed = 20;
  for (const auto& [q_len, kv_len] : lengths) {
    for (const int mask : {0, 1, 2}) {
      CallSpec spec;
      spec.q_len = q_len;
      spec.kv_len = kv_len;
      spec.mask = mask;
      spec.seed = seed++;
      expect_same(spec, loop_variants());
    }
  }
}

TEST(EmulateOnDevice, AgreesForEveryHeadDimFormatAndLayout) {
  SAGE2_NEEDS_GPU();
  std::uint64_t seed = 40;
  for (const std::int64_t dim : {1, 5, 40, 64, 80, 96, 128, 200, 256, 33, 72, 192}) {
    CallSpec spec;
    spec.head_dim = dim;
    spec.dtype = static_cast<DType>(seed % 3);
    spec.batch = 2;
    spec.kv_heads = 1;
    spec.q_len = 70;
    spec.kv_len = 140;
    spec.mask = 1;
    spec.nhd = seed % 2 == 0;
    spec.seed = seed++;
    auto variants = loop_variants();
    for (const char* wide : {"exact:geometry=128x256w32", "fp16:geometry=128x256w32", "sage2-4b:geometry=128x256w32"}) {
      variants.push_back(parse_variant(wide));
    }
    expect_same(spec, variants);
  }
}

/// The length that the kernels are made for; 64 rows of it, since the CPU must compute them too.
TEST(EmulateOnDevice, AgreesForLongSequences) {
  SAGE2_NEEDS_GPU();
  const Stream stream;
  CallSpec spec;
  spec.q_heads = spec.kv_heads = 1;
  spec.q_len = 300;
  spec.kv_len = 131072;
  const Call call(spec, stream.get());
  std::vector<std::vector<std::uint32_t>> rows(1);
  for (std::uint32_t i = 0; i < 64; ++i) rows[0].push_back(i * 4 + 3);
  for (const auto& variant : parsed({"sage2-4b-v1", "fp16", "exact"})) {
    expect_same(call, variant, spec.name(), stream, rows);
  }
}

/// Sharp rows: nearly all of P underflows, accumulators shrink by many octaves between tiles, maxima jump.
TEST(EmulateOnDevice, AgreesForPeakedRows) {
  SAGE2_NEEDS_GPU();
  for (const float spread : {8.0F, 60.0F}) {
    CallSpec spec;
    spec.q_len = 100;
    spec.kv_len = 400;
    spec.q_spread = spread;
    spec.v_bias = 0;
    expect_same(spec, all_variants());
  }
}

/// Enough rows that blocks of 64 of them are used, on any device.
TEST(EmulateOnDevice, AgreesForManyHeads) {
  SAGE2_NEEDS_GPU();
  for (const int mask : {0, 1}) {
    CallSpec spec;
    spec.batch = 2;
    spec.q_heads = 30;
    spec.kv_heads = 2;
    spec.q_len = 170;
    spec.kv_len = 100;
    spec.mask = mask;
    expect_same(spec, loop_variants());
    spec.head_dim = 256;
    expect_same(spec, parsed({"exact", "fp16", "sage2-4b", "exact:geometry=128x256w32", "fp16:geometry=128x256w32"}));
  }
}

TEST(EmulateOnDevice, AgreesForSelectedRows) {
  SAGE2_NEEDS_GPU();
  const Stream stream;
  CallSpec spec;
  spec.q_len = 300;
  spec.kv_len = 200;
  spec.mask = 1;
  const Call call(spec, stream.get());
  const std::vector<std::vector<std::uint32_t>> few{{299, 3, 150, 150, 0, 128}, {7, 255, 256, 1, 2, 298}};
  std::vector<std::vector<std::uint32_t>> many(2);
  testing::Random random(5);
  for (int i = 0; i < 90; ++i) {
    for (auto& head : many) head.push_back(static_cast<std::uint32_t>(random() % 300));
  }
  for (const auto& variant : loop_variants()) {
    expect_same(call, variant, "six rows", stream, few);
    expect_same(call, variant, "ninety rows", stream, many);
  }
}

TEST(EmulateOnDevice, ZerosGiveZeros) {
  SAGE2_NEEDS_GPU();
  CallSpec spec;
  spec.q_len = spec.kv_len = 150;
  expect_same(spec, all_variants(), [](Matrix& q, Matrix& k, Matrix& v) {
    for (std::size_t i = 0; i < 150; ++i) {
      v(i, 7) = 0;
      if (i < 70) std::fill_n(q.row(i), 64, 0.0F);
      if (i >= 64 && i < 128) std::fill_n(k.row(i), 64, 0.0F);
    }
  });
  expect_same(spec, loop_variants(), [](Matrix& q, Matrix& k, Matrix& v) {
    for (auto* m : {&q, &k, &v}) std::fill(m->data.begin(), m->data.end(), 0.0F);
  });
}

/// A value beyond FP16 is NaN in what sees it and nowhere else, as on the CPU.
TEST(EmulateOnDevice, OverflowOfFp16IsVisible) {
  SAGE2_NEEDS_GPU();
  CallSpec spec;
  spec.q_len = spec.kv_len = 100;
  spec.mask = 1;
  spec.dtype = DType::bfloat16;
  const auto variants = parsed(
      {"fp16", "sage1:smooth_k=off", "fp16:o=fp16", "sage2-8b:v_outliers=split", "fp16:qk_accum=exact,pv_accum=exact"});
  expect_same(spec, variants, [](Matrix& q, Matrix&, Matrix&) { q(50, 3) = 0x1p20F; });
  expect_same(spec, variants, [](Matrix&, Matrix& k, Matrix&) { k(50, 3) = 0x1p20F; });
  expect_same(spec, variants, [](Matrix&, Matrix&, Matrix& v) { v(50, 3) = -0x1p20F; });
}

/// Calls in several streams at once do not disturb each other.
TEST(EmulateOnDevice, StreamsAreIndependent) {
  SAGE2_NEEDS_GPU();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t] {
      CallSpec spec;
      spec.seed = 100 + static_cast<std::uint64_t>(t);
      spec.q_len = 90 + 10 * t;
      expect_same(spec, loop_variants());
    });
  }
  for (auto& t : threads) t.join();
}

/// Where the bundled captures are: in the source tree, or where the environment says.
std::string samples() {
  const char* const folder = std::getenv("SAGE2_SAMPLES");  // NOLINT(concurrency-mt-unsafe): nobody sets it
  return folder != nullptr ? folder : std::string(SAGE2_SOURCE_DIR) + "/datasets/samples";
}

/// The bundled captures of real models: the first and the last cell of each.
TEST(EmulateOnDevice, AgreesOnRealData) {
  SAGE2_NEEDS_GPU();
  const Stream stream;
  for (const char* file : {"dit.h5", "lm.h5"}) {
    const CaptureReader reader(samples() + "/" + file);
    for (const auto& id : {reader.cells().front(), reader.cells().back()}) {
      const auto cell = reader.describe(id);
      const auto heads = [&](TensorName name, std::size_t count) {
        std::vector<Matrix> out;
        for (std::size_t b = 0; b < cell.shape.batch; ++b) {
          for (std::size_t h = 0; h < count; ++h) out.push_back(reader.read_head(cell, name, b, h));
        }
        return out;
      };
      Call call(heads(TensorName::q, cell.shape.q_heads), heads(TensorName::k, cell.shape.kv_heads),
                heads(TensorName::v, cell.shape.kv_heads), static_cast<std::int64_t>(cell.shape.batch), cell.dtype,
                stream.get());
      call.set_mask(cell.is_causal, cell.causal_align, cell.sm_scale);
      for (const auto& variant : all_variants()) expect_same(call, variant, file, stream);
    }
  }
}

}  // namespace
}  // namespace sage2

#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <new>

#include "datasets/error.hpp"
#include "fmt/format.h"
#include "kernels/cuda_check.hpp"
#include "kernels/sage2.h"
#include "kernels/sm90_plan.hpp"

namespace sage2::cuda {
namespace {

thread_local std::array<char, 1024> last_error{};

/// An error of this interface; everything else that is thrown gets its status in `guarded`.
struct ApiError {
  sage2_status status;
  std::string what;
};

template <class... Args>
[[noreturn]] void refuse(sage2_status status, fmt::format_string<Args...> format, Args&&... args) {
  throw ApiError{status, fmt::format(format, std::forward<Args>(args)...)};
}

sage2_status failed(sage2_status status, const char* what) {
  (void)std::snprintf(last_error.data(), last_error.size(), "%s", what);
  return status;
}

/// No exception crosses the interface.
template <class F>
sage2_status guarded(const F& f) noexcept {
  try {
    last_error[0] = '\0';
    f();
    return SAGE2_OK;
  } catch (const ApiError& e) {
    return failed(e.status, e.what.c_str());
  } catch (const UsageError& e) {
    return failed(SAGE2_UNSUPPORTED, e.what());
  } catch (const DeviceError& e) {
    (void)cudaGetLastError();  // told once; the next launch starts clean
    return failed(SAGE2_CUDA_ERROR, e.what());
  } catch (const std::exception& e) {
    return failed(SAGE2_INTERNAL_ERROR, e.what());
  } catch (...) {
    return failed(SAGE2_INTERNAL_ERROR, "an error without a name");
  }
}

template <class T>
const T& given(const T* pointer, const char* name) {
  if (pointer == nullptr) refuse(SAGE2_INVALID_ARGUMENT, "{} is NULL", name);
  return *pointer;
}

Variant variant_of(const sage2_variant& v) {
  if (v.bits != 8 && v.bits != 4) refuse(SAGE2_INVALID_ARGUMENT, "variant: bits is {}, expected 8 or 4", v.bits);
  if (v.granularity > SAGE2_PER_THREAD) {
    refuse(SAGE2_INVALID_ARGUMENT, "variant: granularity is {}, expected 0, 1 or 2", v.granularity);
  }
  for (const auto flag : {v.smooth_q, v.smooth_k, v.smooth_v, v.two_level}) {
    if (flag > 1) refuse(SAGE2_INVALID_ARGUMENT, "variant: a flag is {}, expected 0 or 1", flag);
  }
  constexpr std::array kGrans{QkGran::per_block, QkGran::per_warp, QkGran::per_thread};
  static const Variant base = parse_variant("sage2-8b@hopper");
  Variant out = base;
  out.q = out.k = v.bits == 8 ? Format::int8 : Format::int4;
  out.qk_gran = kGrans.at(v.granularity);
  out.smooth_q = v.smooth_q != 0;
  out.smooth_k = v.smooth_k != 0;
  out.smooth_v = v.smooth_v != 0;
  out.pv_accum = v.two_level != 0 ? PvAccum::fp32_fp32 : PvAccum::fp32;
  return out;
}

void check_sizes(const sage2_args& a) {
  const auto size = [](const char* name, std::int64_t value, std::int64_t most) {
    if (value < 1 || value > most) {
      refuse(SAGE2_INVALID_ARGUMENT, "{} is {}, expected 1 to {}", name, value, most);
    }
  };
  constexpr std::int64_t kMost = 1 << 26;
  size("batch", a.batch, kMost);
  size("q_heads", a.q_heads, kMost);
  size("kv_heads", a.kv_heads, kMost);
  size("q_len", a.q_len, kMost);
  size("kv_len", a.kv_len, kMost);
  size("head_dim", a.head_dim, 256);
  if (a.q_heads % a.kv_heads != 0) {
    refuse(SAGE2_INVALID_ARGUMENT, "q_heads is {}, expected a multiple of kv_heads ({})", a.q_heads, a.kv_heads);
  }
  // Blocks of a launch and pieces of work are counted in 32 bits.
  const auto blocks = [](std::int64_t heads, std::int64_t tokens, double rows) {
    return static_cast<double>(heads) * (static_cast<double>(tokens) / rows + 4);
  };
  const double pieces =
      static_cast<double>(a.batch) * (blocks(a.q_heads, a.q_len, 8) + blocks(a.kv_heads, a.kv_len, 32));
  if (!(pieces < 2e9)) refuse(SAGE2_INVALID_ARGUMENT, "batch x heads x tokens is too large for one call");
}

DeviceProblem problem_of(const sage2_args& a) {
  check_sizes(a);
  if (a.dtype != SAGE2_FLOAT16 && a.dtype != SAGE2_BFLOAT16) {
    refuse(SAGE2_INVALID_ARGUMENT, "dtype is {}, expected SAGE2_FLOAT16 or SAGE2_BFLOAT16", a.dtype);
  }
  if (a.mask < SAGE2_MASK_NONE || a.mask > SAGE2_MASK_CAUSAL_TOP_LEFT) {
    refuse(SAGE2_INVALID_ARGUMENT, "mask is {}, expected a sage2_mask", a.mask);
  }
  if (!(a.sm_scale > 0) || !std::isfinite(a.sm_scale)) {
    refuse(SAGE2_INVALID_ARGUMENT, "sm_scale is {}, expected a number above 0", a.sm_scale);
  }
  DeviceProblem p;
  p.dtype = a.dtype == SAGE2_FLOAT16 ? DType::float16 : DType::bfloat16;
  const auto view = [&](const sage2_tensor& t, std::int64_t heads, std::int64_t tokens) {
    return TensorView{.data = t.data,
                      .dtype = p.dtype,
                      .batch = a.batch,
                      .heads = heads,
                      .tokens = tokens,
                      .channels = a.head_dim,
                      .stride_batch = t.stride_batch,
                      .stride_head = t.stride_head,
                      .stride_token = t.stride_token};
  };
  p.q = view(a.q, a.q_heads, a.q_len);
  p.k = view(a.k, a.kv_heads, a.kv_len);
  p.v = view(a.v, a.kv_heads, a.kv_len);
  p.is_causal = a.mask != SAGE2_MASK_NONE;
  p.causal_align = a.mask == SAGE2_MASK_CAUSAL_TOP_LEFT ? CausalAlign::top_left : CausalAlign::bottom_right;
  p.sm_scale = a.sm_scale;
  return p;
}

/// The device that a pointer lies on.
int device_of(const void* pointer, const char* name) {
  if (pointer == nullptr) refuse(SAGE2_INVALID_ARGUMENT, "{} is NULL", name);
  cudaPointerAttributes attributes{};
  SAGE2_CUDA_CHECK(cudaPointerGetAttributes(&attributes, pointer));
  if (attributes.type != cudaMemoryTypeDevice && attributes.type != cudaMemoryTypeManaged) {
    refuse(SAGE2_INVALID_ARGUMENT, "{} does not point to device memory", name);
  }
  return attributes.device;
}

void same_device(const void* pointer, const char* name, int device) {
  if (const int other = device_of(pointer, name); other != device) {
    refuse(SAGE2_INVALID_ARGUMENT, "{} is on device {}, but the workspace is on device {}", name, other, device);
  }
}

/// Makes a device current, and the one before again.
class CurrentDevice {
 public:
  explicit CurrentDevice(int device) {
    SAGE2_CUDA_CHECK(cudaGetDevice(&before_));
    if (device != before_) SAGE2_CUDA_CHECK(cudaSetDevice(device));
    changed_ = device != before_;
  }
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;
  ~CurrentDevice() {
    if (changed_) (void)cudaSetDevice(before_);
  }

 private:
  int before_ = 0;
  bool changed_ = false;
};

void check_chip(int device) {
  int major = 0;
  int minor = 0;
  SAGE2_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  SAGE2_CUDA_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  if (major != 9 || minor != 0) {
    refuse(SAGE2_UNSUPPORTED, "device {} has compute capability {}.{}; the kernels of this library need 9.0 (Hopper)",
           device, major, minor);
  }
}

enum class Half : std::uint8_t { both, prepare, attend };

void run(const sage2_variant* variant, const sage2_args* args, void* workspace, std::size_t workspace_bytes,
         cudaStream_t stream, Half half) {
  sm90::Plan plan = sm90::plan(variant_of(given(variant, "variant")));
  // sage2_attend does not read V.
  if (half != Half::both) plan.prepare.v_codes = sm90::Codes::prepared;
  const sage2_args& a = given(args, "args");
  const DeviceProblem problem = problem_of(a);
  const bool with_lse = a.lse != nullptr;
  const sm90::Workspace parts = sm90::plan_workspace(problem, plan.prepare, with_lse);
  if (workspace_bytes < parts.bytes + sm90::kWorkspaceAlignment) {
    refuse(SAGE2_WORKSPACE_TOO_SMALL, "the workspace has {} bytes, expected at least {}", workspace_bytes,
           parts.bytes + sm90::kWorkspaceAlignment);
  }
  const int device = device_of(workspace, "workspace");
  same_device(a.q.data, "q", device);
  if (half != Half::attend) {
    same_device(a.k.data, "k", device);
    same_device(a.v.data, "v", device);
  }
  if (half != Half::prepare) {
    same_device(a.o.data, "o", device);
    if (with_lse) same_device(a.lse, "lse", device);
    if (a.o_dtype < SAGE2_FLOAT16 || a.o_dtype > SAGE2_FLOAT32) {
      refuse(SAGE2_INVALID_ARGUMENT, "o_dtype is {}, expected a sage2_dtype", a.o_dtype);
    }
  }
  const CurrentDevice current(device);
  check_chip(device);

  void* const base = sm90::align_workspace(workspace);
  if (half != Half::attend) sm90::prepare(problem, plan.prepare, parts, base, with_lse, stream);
  if (half == Half::prepare) return;
  auto params = sm90::attention_params(problem, plan.prepare, parts, base, with_lse);
  params.o = a.o.data;
  constexpr std::array kTypes{sm90::OutType::fp16, sm90::OutType::bf16, sm90::OutType::fp32};
  params.o_type = kTypes.at(static_cast<std::size_t>(a.o_dtype));
  params.o_stride_batch = a.o.stride_batch;
  params.o_stride_head = a.o.stride_head;
  params.o_stride_token = a.o.stride_token;
  params.lse = a.lse;
  // sm90::prepare has set the counter of work to zero for the first launch after it.
  if (half == Half::attend) SAGE2_CUDA_CHECK(cudaMemsetAsync(params.next_tile, 0, sizeof(int), stream));
  sm90::attention(params, plan.kernel, stream);
}

}  // namespace
}  // namespace sage2::cuda

using namespace sage2::cuda;  // NOLINT: the functions below are the interface of this namespace

extern "C" {

sage2_status sage2_parse_variant(const char* text, sage2_variant* variant) {
  return guarded([&] {
    if (text == nullptr || variant == nullptr) {
      refuse(SAGE2_INVALID_ARGUMENT, "{} is NULL", text == nullptr ? "text" : "variant");
    }
    const sage2::Variant v = sm90::parse_for_hopper(text);
    (void)sm90::plan(v);
    *variant = {};
    variant->bits = v.q == sage2::Format::int8 ? 8 : 4;
    variant->granularity = v.qk_gran == sage2::QkGran::per_block
                               ? SAGE2_PER_BLOCK
                               : (v.qk_gran == sage2::QkGran::per_warp ? SAGE2_PER_WARP : SAGE2_PER_THREAD);
    variant->smooth_q = v.smooth_q ? 1 : 0;
    variant->smooth_k = v.smooth_k ? 1 : 0;
    variant->smooth_v = v.smooth_v ? 1 : 0;
    variant->two_level = v.pv_accum == sage2::PvAccum::fp32_fp32 ? 1 : 0;
  });
}

sage2_status sage2_workspace_size(const sage2_variant* variant, const sage2_args* args, size_t* bytes) {
  return guarded([&] {
    if (bytes == nullptr) refuse(SAGE2_INVALID_ARGUMENT, "bytes is NULL");
    const auto plan = sm90::plan(variant_of(given(variant, "variant")));
    const sage2_args& a = given(args, "args");
    *bytes = sm90::plan_workspace(problem_of(a), plan.prepare, a.lse != nullptr).bytes + sm90::kWorkspaceAlignment;
  });
}

sage2_status sage2_attention(const sage2_variant* variant, const sage2_args* args, void* workspace,
                             size_t workspace_bytes, CUstream_st* stream) {
  return guarded([&] { run(variant, args, workspace, workspace_bytes, stream, Half::both); });
}

sage2_status sage2_prepare(const sage2_variant* variant, const sage2_args* args, void* workspace,
                           size_t workspace_bytes, CUstream_st* stream) {
  return guarded([&] { run(variant, args, workspace, workspace_bytes, stream, Half::prepare); });
}

sage2_status sage2_attend(const sage2_variant* variant, const sage2_args* args, void* workspace, size_t workspace_bytes,
                          CUstream_st* stream) {
  return guarded([&] { run(variant, args, workspace, workspace_bytes, stream, Half::attend); });
}

const char* sage2_last_error(void) {
  return last_error.data();
}

const char* sage2_version(void) {
  return SAGE2_VERSION;
}
}

/* One call of libsage2 on made-up BF16 tensors, and one query row checked against attention in double precision.
 * Exit code 0: they agree; 1: they do not, or something failed; 4: there is no GPU that it runs on. */
#include <cuda_runtime_api.h>
#include <math.h>
#include <sage2.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADS = 2, LENGTH = 1000, DIM = 128 };
static const size_t kElements = (size_t)HEADS * LENGTH * DIM;

static float from_bf16(uint16_t bits) {
  const uint32_t wide = (uint32_t)bits << 16;
  float x;
  memcpy(&x, &wide, sizeof x);
  return x;
}

static uint16_t to_bf16(float x) {
  uint32_t wide;
  memcpy(&wide, &x, sizeof wide);
  return (uint16_t)((wide + 0x8000u) >> 16);
}

/* About N(0, 1), and each channel with a mean of its own: what smoothing is for. */
static void fill(uint16_t* x, unsigned seed, float bias) {
  uint32_t state = seed;
  for (size_t i = 0; i < kElements; ++i) {
    float sum = -6;
    for (int j = 0; j < 12; ++j) {
      state = state * 1664525u + 1013904223u;
      sum += (float)(state >> 8) / 16777216.0f;
    }
    x[i] = to_bf16(sum + bias * sinf((float)(i % DIM) * 1.7f + (float)seed));
  }
}

/* Row `row` of head `head`, in double precision. */
static void exact_row(const uint16_t* q, const uint16_t* k, const uint16_t* v, int head, int row, double* out) {
  const size_t base = (size_t)head * LENGTH * DIM;
  static double p[LENGTH];
  double largest = -INFINITY, total = 0;
  for (int j = 0; j <= row; ++j) {
    double s = 0;
    for (int c = 0; c < DIM; ++c) s += from_bf16(q[base + (size_t)row * DIM + c]) * from_bf16(k[base + (size_t)j * DIM + c]);
    p[j] = s / sqrt(DIM);
    largest = fmax(largest, p[j]);
  }
  for (int j = 0; j <= row; ++j) total += p[j] = exp(p[j] - largest);
  for (int c = 0; c < DIM; ++c) {
    out[c] = 0;
    for (int j = 0; j <= row; ++j) out[c] += p[j] / total * from_bf16(v[base + (size_t)j * DIM + c]);
  }
}

#define CHECK_CUDA(call)                                                     \
  do {                                                                       \
    const cudaError_t e = (call);                                            \
    if (e != cudaSuccess) {                                                  \
      fprintf(stderr, "attention: %s: %s\n", #call, cudaGetErrorString(e));  \
      exit(1);                                                               \
    }                                                                        \
  } while (0)
#define CHECK_SAGE2(call)                                                    \
  do {                                                                       \
    const sage2_status s = (call);                                           \
    if (s != SAGE2_OK) {                                                     \
      fprintf(stderr, "attention: %s\n", sage2_last_error());                \
      exit(s == SAGE2_UNSUPPORTED ? 4 : 1);                                  \
    }                                                                        \
  } while (0)

int main(int argc, char** argv) {
  const char* name = argc > 1 ? argv[1] : "sage2-4b";
  int devices = 0;
  sage2_variant variant;
  CHECK_SAGE2(sage2_parse_variant(name, &variant));
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    fprintf(stderr, "attention: there is no GPU (libsage2 %s)\n", sage2_version());
    return 4;
  }

  uint16_t* host[3];
  void* device[4];
  for (int i = 0; i < 4; ++i) CHECK_CUDA(cudaMalloc(&device[i], kElements * sizeof(uint16_t)));
  for (int i = 0; i < 3; ++i) {
    host[i] = malloc(kElements * sizeof(uint16_t));
    if (host[i] == NULL) return 1;
    fill(host[i], 17u + (unsigned)i, i == 1 ? 3.0f : 0.5f);
    CHECK_CUDA(cudaMemcpy(device[i], host[i], kElements * sizeof(uint16_t), cudaMemcpyHostToDevice));
  }

  const int64_t per_head = (int64_t)LENGTH * DIM;
  sage2_args args = {0};
  args.batch = 1;
  args.q_heads = args.kv_heads = HEADS;
  args.q_len = args.kv_len = LENGTH;
  args.head_dim = DIM;
  sage2_tensor* tensors[4] = {&args.q, &args.k, &args.v, &args.o};
  for (int i = 0; i < 4; ++i) *tensors[i] = (sage2_tensor){device[i], per_head * HEADS, per_head, DIM};
  args.dtype = args.o_dtype = SAGE2_BFLOAT16;
  args.mask = SAGE2_MASK_CAUSAL_TOP_LEFT;
  args.sm_scale = 1.0f / sqrtf(DIM);

  size_t bytes = 0;
  void* workspace = NULL;
  CHECK_SAGE2(sage2_workspace_size(&variant, &args, &bytes));
  CHECK_CUDA(cudaMalloc(&workspace, bytes));
  CHECK_SAGE2(sage2_attention(&variant, &args, workspace, bytes, NULL));
  uint16_t* out = malloc(kElements * sizeof(uint16_t));
  if (out == NULL) return 1;
  CHECK_CUDA(cudaMemcpy(out, device[3], kElements * sizeof(uint16_t), cudaMemcpyDeviceToHost));

  const int row = 777;
  double truth[DIM], dot = 0, tt = 0, oo = 0;
  exact_row(host[0], host[1], host[2], 1, row, truth);
  for (int c = 0; c < DIM; ++c) {
    const double o = from_bf16(out[per_head + (int64_t)row * DIM + c]);
    dot += o * truth[c];
    tt += truth[c] * truth[c];
    oo += o * o;
  }
  const double cosine = dot / sqrt(tt * oo);
  printf("%s, %zu bytes of workspace: cosine similarity of a row %.5f\n", name, bytes, cosine);
  return cosine > 0.98 ? 0 : 1;
}

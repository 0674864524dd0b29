/* libsage2: SageAttention2 (INT8 or INT4 Q and K, FP8 P and V) for inference on NVIDIA Hopper GPUs.
 *
 *   sage2_variant variant;
 *   sage2_parse_variant("sage2-4b", &variant);
 *   sage2_args args = {0};                           // sizes, tensors, mask, scale
 *   ...
 *   size_t bytes;
 *   sage2_workspace_size(&variant, &args, &bytes);   // device memory that the caller provides
 *   sage2_attention(&variant, &args, workspace, bytes, stream);
 *
 * Every function may be called from any thread. Nothing here allocates device memory or waits for the GPU: calls can be
 * captured into CUDA graphs. A status other than SAGE2_OK comes with a sentence in sage2_last_error(). docs/library.md
 * has a complete example. */
#ifndef SAGE2_H
#define SAGE2_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define SAGE2_API __attribute__((visibility("default")))
#else
#define SAGE2_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum sage2_status {
  SAGE2_OK = 0,
  SAGE2_INVALID_ARGUMENT = 1, /* a null pointer, a size, a stride, a tensor that is not on the device */
  SAGE2_UNSUPPORTED = 2,      /* no kernel for this variant or this GPU */
  SAGE2_WORKSPACE_TOO_SMALL = 3,
  SAGE2_CUDA_ERROR = 4, /* what CUDA said is in sage2_last_error() */
  SAGE2_INTERNAL_ERROR = 5
} sage2_status;

typedef enum sage2_dtype { SAGE2_FLOAT16 = 0, SAGE2_BFLOAT16 = 1, SAGE2_FLOAT32 = 2 } sage2_dtype;

/* Which keys query row i sees. */
typedef enum sage2_mask {
  SAGE2_MASK_NONE = 0,
  SAGE2_MASK_CAUSAL_BOTTOM_RIGHT = 1, /* keys 0 .. i + kv_len - q_len: FlashAttention, decoding with a cache */
  SAGE2_MASK_CAUSAL_TOP_LEFT = 2      /* keys 0 .. i: PyTorch's scaled_dot_product_attention */
} sage2_mask;

/* Rows that share a scale: 64 queries or 128 keys; 16 queries or 128 keys; the rows of a tensor-core thread. */
typedef enum sage2_granularity { SAGE2_PER_BLOCK = 0, SAGE2_PER_WARP = 1, SAGE2_PER_THREAD = 2 } sage2_granularity;

/* What is computed. Filled by sage2_parse_variant, or by hand with all fields set. */
typedef struct sage2_variant {
  uint8_t bits;        /* of the codes of Q and K: 8 or 4 */
  uint8_t granularity; /* sage2_granularity */
  uint8_t smooth_q;    /* 1: subtract the mean of each 128 query rows */
  uint8_t smooth_k;    /* 1: subtract the mean of K over the tokens */
  uint8_t smooth_v;    /* 1: subtract the mean of V, add it to the output */
  uint8_t two_level;   /* 1: a fresh FP8 accumulator for every 128 keys, added up in FP32; 0 is slow here */
  uint8_t reserved[2]; /* zero */
} sage2_variant;

/* A tensor of logical shape [batch, heads, tokens, head_dim] in device memory. Strides are in elements; channels lie
 * side by side. [batch, tokens, heads, head_dim] is a matter of strides. */
typedef struct sage2_tensor {
  void* data;
  int64_t stride_batch, stride_head, stride_token;
} sage2_tensor;

/* One attention call. Query head h attends to key/value head h / (q_heads / kv_heads). */
typedef struct sage2_args {
  int64_t batch, q_heads, kv_heads, q_len, kv_len; /* all at least 1; q_heads is a multiple of kv_heads */
  int64_t head_dim;                                /* 1 .. 256 */
  sage2_tensor q, k, v;                            /* of dtype; never written */
  sage2_tensor o;                                  /* of o_dtype */
  float* lse;       /* [batch, q_heads, q_len] natural log-sum-exp of the scores; NULL where it is not wanted */
  int32_t dtype;    /* SAGE2_FLOAT16 or SAGE2_BFLOAT16 */
  int32_t o_dtype;  /* any sage2_dtype */
  int32_t mask;     /* sage2_mask */
  float sm_scale;   /* more than 0; 1 / sqrt(head_dim) as a rule */
} sage2_args;

struct CUstream_st; /* cudaStream_t is a pointer to it */

/* Reads a variant as sage2-eval spells it: "sage2-8b", "sage2-4b", "sage2-4b:qk_gran=per_warp,smooth_v=on". A preset
 * without "@ARCH" is taken as this GPU generation runs it. SAGE2_UNSUPPORTED where no kernel computes it. */
SAGE2_API sage2_status sage2_parse_variant(const char* text, sage2_variant* variant);

/* Bytes of device memory that a call needs, whatever its data pointers. */
SAGE2_API sage2_status sage2_workspace_size(const sage2_variant* variant, const sage2_args* args, size_t* bytes);

/* Enqueues smoothing, quantisation and attention on a stream (NULL: the default stream) of the device that holds the
 * tensors; the calling thread's current device does not matter. The workspace must stay untouched until they are done.
 * Rows that see no key get zeros, and minus infinity in lse. */
SAGE2_API sage2_status sage2_attention(const sage2_variant* variant, const sage2_args* args, void* workspace,
                                       size_t workspace_bytes, struct CUstream_st* stream);

/* The two halves of sage2_attention: after sage2_prepare, sage2_attend may run any number of times with the same
 * variant, workspace, sizes and queries: it reads q again, but neither k nor v. */
SAGE2_API sage2_status sage2_prepare(const sage2_variant* variant, const sage2_args* args, void* workspace,
                                     size_t workspace_bytes, struct CUstream_st* stream);
SAGE2_API sage2_status sage2_attend(const sage2_variant* variant, const sage2_args* args, void* workspace,
                                    size_t workspace_bytes, struct CUstream_st* stream);

/* Why the last call of this thread failed, in one sentence; "" after a success. Valid until the next call. */
SAGE2_API const char* sage2_last_error(void);

/* "0.1.0" */
SAGE2_API const char* sage2_version(void);

#ifdef __cplusplus
}
#endif

#endif

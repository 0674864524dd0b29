#pragma once

/// Marks the few functions that both engines compile, so that they cannot differ.
#ifdef __CUDACC__
#define SAGE2_HOST_DEVICE __host__ __device__
#else
#define SAGE2_HOST_DEVICE
#endif

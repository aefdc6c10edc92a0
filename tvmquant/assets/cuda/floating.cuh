// Float convolution and matrix product of the layers that are not quantized: a block computes a
// tile of outputs, activations and weights go through shared memory. Weights lie by K, then channel.
#ifndef TVMQUANT_FLOATING
#define TVMQUANT_FLOATING
#include <stdint.h>

namespace tvmquant {

template <class S>
__device__ __forceinline__ void float_layer(const float *__restrict__ x,
                                            const float *__restrict__ w,
                                            const float *__restrict__ bias,
                                            float *__restrict__ out, uint8_t *shared) {
  // 256 threads as 16 x 16, each with 4 x 4 outputs.
  constexpr int TILE = 64, DEEP = 16, INNER = S::CHANNELS / S::GROUPS;
  constexpr int DEPTH = S::KERNEL_H * S::KERNEL_W * INNER, OUTPUTS = S::OUTPUTS / S::GROUPS;
  constexpr int PIXELS = S::BATCH * S::OUT_H * S::OUT_W;
  constexpr int BLOCKS = (OUTPUTS + TILE - 1) / TILE;
  float *xs = reinterpret_cast<float *>(shared), *ws = xs + DEEP * (TILE + 4);
  const int group = blockIdx.y, block_n = blockIdx.x % BLOCKS, block_m = blockIdx.x / BLOCKS;
  const int column = threadIdx.x % 16 * 4, line = threadIdx.x / 16 * 4;
  float acc[4][4] = {};
  for (int start = 0; start < DEPTH; start += DEEP) {
    __syncthreads();
    for (int i = threadIdx.x; i < TILE * DEEP; i += 256) {
      const int k = start + i % DEEP, pixel = block_m * TILE + i / DEEP;
      const int tap = k / INNER, channel = k % INNER + group * INNER;
      const int ow = pixel % S::OUT_W, oh = pixel / S::OUT_W % S::OUT_H;
      const int64_t n = pixel / (S::OUT_W * S::OUT_H);
      const int h = oh * S::STRIDE_H - S::PAD_TOP + tap / S::KERNEL_W * S::DILATION_H;
      const int v = ow * S::STRIDE_W - S::PAD_LEFT + tap % S::KERNEL_W * S::DILATION_W;
      const bool inside = k < DEPTH && pixel < PIXELS && unsigned(h) < unsigned(S::HEIGHT) &&
                          unsigned(v) < unsigned(S::WIDTH);
      xs[i % DEEP * (TILE + 4) + i / DEEP] =
          inside ? x[((n * S::HEIGHT + h) * S::WIDTH + v) * S::CHANNELS + channel] : 0.0f;
    }
    for (int i = threadIdx.x; i < TILE * DEEP; i += 256) {
      const int k = start + i / TILE, o = block_n * TILE + i % TILE;
      ws[i / TILE * (TILE + 4) + i % TILE] =
          k < DEPTH && o < OUTPUTS ? w[int64_t(k) * S::OUTPUTS + group * OUTPUTS + o] : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < DEEP; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          acc[i][j] += xs[k * (TILE + 4) + line + i] * ws[k * (TILE + 4) + column + j];
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int pixel = block_m * TILE + line + i, o = block_n * TILE + column + j;
      if (pixel < PIXELS && o < OUTPUTS) {
        const int channel = group * OUTPUTS + o;
        out[int64_t(pixel) * S::OUTPUTS + channel] = acc[i][j] + bias[channel];
      }
    }
  }
}

// One channel in and out: a thread an output.
template <class S>
__device__ __forceinline__ void float_depthwise(const float *__restrict__ x,
                                                const float *__restrict__ w,
                                                const float *__restrict__ bias,
                                                float *__restrict__ out) {
  const int64_t index = int64_t(blockIdx.x) * S::THREADS + threadIdx.x;
  if (index >= int64_t(S::BATCH) * S::OUT_H * S::OUT_W * S::CHANNELS) return;
  const int channel = int(index % S::CHANNELS), ow = int(index / S::CHANNELS % S::OUT_W);
  const int oh = int(index / (int64_t(S::CHANNELS) * S::OUT_W) % S::OUT_H);
  const int64_t n = index / (int64_t(S::CHANNELS) * S::OUT_W * S::OUT_H);
  float sum = 0.0f;
  for (int kh = 0; kh < S::KERNEL_H; ++kh) {
    for (int kw = 0; kw < S::KERNEL_W; ++kw) {
      const int h = oh * S::STRIDE_H - S::PAD_TOP + kh * S::DILATION_H;
      const int v = ow * S::STRIDE_W - S::PAD_LEFT + kw * S::DILATION_W;
      if (unsigned(h) < unsigned(S::HEIGHT) && unsigned(v) < unsigned(S::WIDTH)) {
        sum += x[((n * S::HEIGHT + h) * S::WIDTH + v) * S::CHANNELS + channel] *
               w[(kh * S::KERNEL_W + kw) * S::CHANNELS + channel];
      }
    }
  }
  out[index] = sum + bias[channel];
}

}  // namespace tvmquant
#endif

// Outputs, loss and cotangents, from what the last sine layer's epilogue leaves, for the layers and wide paths.
// (sm90/chain.h computes them within its kernel.)
#pragma once

#include "cuda/gradient.h"
#include "cuda/parameters.h"

namespace siren {
namespace gpu {
namespace {

// Parts of the outputs: `parts` (groups, rows, channels) are sums over a group of columns each. `weights` are the
// output layer's, (channels, width).
struct OutputParts {
    float* parts;
    const float* weights;
    int channels, rows, groups;
};

// Row of the first stream of a point; further streams follow 16 rows apart.
template <int streams>
__device__ inline size_t row_of(int point) {
    return size_t(point / 16) * 16 * streams + point % 16;
}

// One of the network's outputs, in the units asked for.
template <int streams>
__device__ inline float output_value(const Points& points, const Parameters& p,
                                     const OutputParts& output, int point, int stream, int channel) {
    const size_t row = row_of<streams>(point) + 16 * stream;
    float sum = 0;
    for (int group = 0; group < output.groups; ++group) {
        sum += output.parts[(size_t(group) * output.rows + row) * output.channels + channel];
    }
    const float bias = stream == 0 ? p.flat[p.bias(p.hidden_layers + 1) + channel] : 0.0f;
    return sum * points.inverse[stream] + bias;
}

// result is (count, streams, channels).
template <int streams>
__global__ void output_kernel(Points points, Parameters p, OutputParts output, float* result) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    const int point = i / p.channels / streams;
    if (point >= points.count) return;
    result[i] = output_value<streams>(points, p, output, point, i / p.channels % streams,
                                      i % p.channels);
}

// The variation at a point, and its cotangents (streams, channels); `most` becomes the largest.
template <int streams>
__device__ float vary(const Points& points, const Parameters& p, const OutputParts& output, const Error& error,
                      int point, float* cotangents, float& most) {
    const float* const d = error.tensors + 3 * size_t(point);
    const int channels = p.channels;
    float energy = 0;
    for (int c = 0; c < channels; ++c) {
        const float row = output_value<streams>(points, p, output, point, 1, c);
        const float column = output_value<streams>(points, p, output, point, 2, c);
        const float along_row = d[0] * row + d[1] * column, along_column = d[1] * row + d[2] * column;
        energy += row * along_row + column * along_column;
        cotangents[c] = 0;
        cotangents[channels + c] = along_row * points.inverse[1];
        cotangents[2 * channels + c] = along_column * points.inverse[2];
    }
    const float root = sqrtf(energy / channels + error.smallest * error.smallest);
    const float factor = error.mean / (channels * root);
    for (int i = channels; i < 3 * channels; ++i) {
        cotangents[i] *= factor;
        most = fmaxf(most, fabsf(cotangents[i]));
    }
    return root;
}

// From outputs to cotangents (count, streams, channels), in the units of the streams as they are kept. sums[block] has
// the block's share of the loss, before the mean, and of the output biases' gradient: 1 + channels numbers.
template <int streams>
__global__ void cotangent_kernel(Points points, Parameters p, OutputParts output,
                                 Error error, float* cotangent, unsigned* largest, double* sums) {
    follow();
    const int channels = p.channels;
    constexpr int supervised = streams == 3 ? 2 : 1, first = streams - supervised;
    const int point = blockIdx.x * blockDim.x + threadIdx.x;
    const size_t start = size_t(point) * streams * channels;
    double loss = 0;
    float most = 0;
    if (streams == 3 && error.tensors) {
        if (point < points.count) loss = vary<streams>(points, p, output, error, point, cotangent + start, most);
    } else if (point < points.count) {
#pragma unroll
        for (int s = 0; s < streams; ++s) {
            for (int c = 0; c < channels; ++c) {
                const size_t i = start + s * channels + c;
                float g = 0;
                if (error.given) {
                    g = error.given[i] * points.inverse[s];
                } else if (s >= first) {
                    const size_t k = size_t(point) * supervised + s - first;
                    const float residual = output_value<streams>(points, p, output, point, s, c) -
                                           error.target[k * channels + c];
                    loss += double(residual) * residual;
                    g = 2 * error.mean * residual * points.inverse[s];
                }
                most = fmaxf(most, fabsf(g));
                cotangent[i] = g;
            }
        }
    }
    keep_largest(most, largest);
    sums += size_t(blockIdx.x) * (1 + channels);
    loss = block_sum(loss);
    if (threadIdx.x == 0) sums[0] = loss;
    for (int c = 0; c < channels; ++c) {
        const double bias = block_sum(point < points.count ? cotangent[start + c] : 0.0f);
        if (threadIdx.x == 0) sums[1 + c] = bias;
    }
}

}  // namespace
}  // namespace gpu
}  // namespace siren

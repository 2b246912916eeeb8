// Coordinates and targets of the points that a step takes, from their numbers: `gather` of reference.py. See
// samples.Selection for which points these are.
#pragma once

#include <cstdint>

#include "cuda/runtime.h"

namespace siren {
namespace gpu {
namespace {

struct Selection {
    unsigned first, count, steps, key, place;  // as samples.Selection has them

    __device__ unsigned index(unsigned i) const {
        const unsigned stratum = first + i;
        if (steps == 1) return stratum;
        const unsigned offset = __umulhi(mix(stratum * 0x9e3779b9u + key), steps) + place;
        return steps * stratum + (offset < steps ? offset : offset - steps);
    }

private:
    static __device__ unsigned mix(unsigned x) {
        x = (x ^ x >> 16) * 0x7feb352du;
        x = (x ^ x >> 15) * 0x846ca68bu;
        return x ^ x >> 16;
    }
};

// Points as samples.DevicePoints stores them. `pixels` is null where all pixels of the grid are points, and `levels`
// where values are the targets themselves.
template <class Value>
struct StoredPoints {
    const Value* values;
    const float* levels;
    const int* pixels;
    const float* axes;  // coordinates of the rows, then of the columns
    unsigned first, height, width, targets;  // first: number of the first point here; targets: of each
};

template <class Code>
__device__ inline float target_of(const float* levels, Code code) {
    return levels[code];
}
__device__ inline float target_of(const float*, float value) { return value; }

template <class Value>
__global__ void gather_kernel(Selection selection, StoredPoints<Value> points, float2* coordinates, float* target) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= selection.count) return;
    const unsigned index = selection.index(i), local = index - points.first;
    const unsigned pixel = points.pixels ? points.pixels[local] : index;
    coordinates[i] = make_float2(points.axes[pixel / points.width],
                                 points.axes[points.height + pixel % points.width]);
    for (unsigned k = 0; k < points.targets; ++k) {
        target[size_t(i) * points.targets + k] =
            target_of(points.levels, points.values[size_t(local) * points.targets + k]);
    }
}

}  // namespace
}  // namespace gpu

struct Gather {
    gpu::Selection selection;
    unsigned stored, height, width, targets;

    template <class Data>
    explicit Gather(Data& data)
        : selection{unsigned(data["first"]), unsigned(data["count"]), unsigned(data["steps"]), unsigned(data["key"]),
                    unsigned(data["place"])},
          stored(unsigned(data["stored"])),
          height(unsigned(data["height"])),
          width(unsigned(data["width"])),
          targets(unsigned(data["targets"])) {}

    template <class Value>
    void run(const Value* values, const float* levels, const int* pixels, const float* axes, float* coordinates,
             float* target) const {
        const gpu::StoredPoints<Value> points{values, levels, pixels, axes, stored, height, width, targets};
        gpu::gather_kernel<<<gpu::blocks(selection.count), 256>>>(selection, points,
                                                                  reinterpret_cast<float2*>(coordinates), target);
        gpu::check(cudaGetLastError());
    }
};

}  // namespace siren

// The points of a step, from their numbers: coordinates and targets of stored ones (samples.Selection and
// samples.DevicePoints), and random ones with the tensors there (samples.RandomPoints and `variation` of reference.py).
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/launch.h"

namespace siren {
namespace gpu {
namespace {

// The hash of samples.py.
__device__ inline unsigned mix(unsigned x) {
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

struct Selection {
    unsigned first, count, steps, key, place;  // as samples.Selection has them

    template <class Data>
    explicit Selection(Data& data)
        : first(unsigned(data["first"])),
          count(unsigned(data["count"])),
          steps(unsigned(data["steps"])),
          key(unsigned(data["key"])),
          place(unsigned(data["place"])) {}

    // `part_count` of its points, from number `begin` on.
    Selection part(int64_t begin, int part_count) const {
        Selection result = *this;
        result.first += unsigned(begin);
        result.count = unsigned(part_count);
        return result;
    }

    __device__ unsigned index(unsigned i) const {
        const unsigned stratum = first + i;
        if (steps == 1) return stratum;
        const unsigned offset = __umulhi(mix(stratum * 0x9e3779b9u + key), steps) + place;
        return steps * stratum + (offset < steps ? offset : offset - steps);
    }
};

// Points as samples.DevicePoints stores them. Levels are for values that are not the targets themselves, pixels where
// they are `listed`: otherwise all pixels of the grid are points.
template <class Value>
struct StoredPoints {
    const Value* values;
    const float* axes;  // coordinates of the rows, then of the columns
    const float* levels;
    const int* pixels;
    unsigned first, height, width, targets;  // first: number of the first point here; targets: of each
    bool listed;
};

template <class Value, class Data>
StoredPoints<Value> stored_points(Data& data, const Value* values, const float* axes, const float* levels,
                                  const int* pixels) {
    return {values, axes, levels, pixels, unsigned(data["stored"]), unsigned(data["height"]),
            unsigned(data["grid_width"]), unsigned(data["targets"]), data["listed"] != 0};
}

template <class Code>
__device__ inline float target_of(const float* levels, Code code) {
    return levels[code];
}
__device__ inline float target_of(const float*, float value) { return value; }

template <class Value>
__global__ void gather_kernel(Selection selection, StoredPoints<Value> points, float2* coordinates, float* target) {
    follow();
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= selection.count) return;
    const unsigned index = selection.index(i), local = index - points.first;
    const unsigned pixel = points.listed ? points.pixels[local] : index;
    coordinates[i] = make_float2(points.axes[pixel / points.width],
                                 points.axes[points.height + pixel % points.width]);
    for (unsigned k = 0; k < points.targets; ++k) {
        target[size_t(i) * points.targets + k] =
            target_of(points.levels, points.values[size_t(local) * points.targets + k]);
    }
}

// coordinates (count, 2) and target (count, targets) of the selected points.
template <class Value>
void gather(const Selection& selection, const StoredPoints<Value>& points, float* coordinates, float* target) {
    launch(gather_kernel<Value>, blocks(selection.count), 256, selection, points, reinterpret_cast<float2*>(coordinates),
           target);
}

// Random points as samples.RandomPoints has them, and a field of tensors (height, width, 3).
struct RandomPoints {
    unsigned first, key;
    const float* tensors;
    unsigned height, width;

    template <class Data>
    RandomPoints(Data& data, const float* tensors)
        : first(unsigned(data["first"])),
          key(unsigned(data["key"])),
          tensors(tensors),
          height(unsigned(data["height"])),
          width(unsigned(data["grid_width"])) {}

    __device__ float coordinate(unsigned number) const {
        return float(mix(number * 0x9e3779b9u + key) >> 8) / (1 << 23) - 1;
    }
    __device__ static unsigned nearest(float coordinate, unsigned size) {
        return unsigned(rintf((coordinate + 1) / 2 * float(size - 1)));
    }
};

__global__ void draw_kernel(RandomPoints points, unsigned begin, unsigned count, float2* coordinates, float* tensors) {
    follow();
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const unsigned number = points.first + begin + i;
    const float row = points.coordinate(2 * number), column = points.coordinate(2 * number + 1);
    coordinates[i] = make_float2(row, column);
    const size_t pixel = size_t(points.nearest(row, points.height)) * points.width + points.nearest(column, points.width);
    for (int k = 0; k < 3; ++k) tensors[3 * size_t(i) + k] = points.tensors[3 * pixel + k];
}

// coordinates (count, 2) and tensors (count, 3) of the points from number `begin` on.
inline void draw(const RandomPoints& points, int64_t begin, int count, float* coordinates, float* tensors) {
    launch(draw_kernel, blocks(count), 256, points, unsigned(begin), unsigned(count),
           reinterpret_cast<float2*>(coordinates), tensors);
}

}  // namespace
}  // namespace gpu
}  // namespace siren

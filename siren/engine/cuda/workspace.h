// The arrays of a call, in one block of memory, as a plan says.
#pragma once

#include <algorithm>
#include <cstddef>

#include "cuda/memory.h"
#include "cuda/numerics.h"
#include "cuda/outputs.h"
#include "cuda/parameters.h"
#include "cuda/plan.h"

namespace siren {
namespace gpu {
namespace {

template <class Precision>
struct Workspace {
    typedef typename Precision::Piece Piece;

    // Matrices of the layers, planes of a layer together; packed weights, all planes apart; and vectors.
    Piece *h, *x, *d, *weights;
    float* vectors;
    float* output_parts;  // see OutputParts in outputs.h

    // What follows is there only to go back with.
    float *coordinates, *targets;      // of points that are not given (count, 2); targets or tensors
    uint4* kept;                       // x of tiles, in the order of threads
    float* scales;                     // of each tile's d, see sm90/chain.h
    float* cotangents;                 // of the outputs (points, streams, channels)
    unsigned *largest, *arrived;       // of each chunk: largest cotangent, groups that have said theirs
    // Sums over shares; see Plan and Part (gradient.h).
    float *outer_sums;                 // (hidden layer, share, width, width)
    float *bias_sums;                  // (hidden layer, share, width)
    float *first_sums;                 // (share, 3, width): weights' two columns, bias
    float *output_sums;                // (share, channels, width)
    double *point_sums;                // (share, 1 + channels): loss, output biases

    Workspace(const Parameters& p, const Plan& plan, int streams) {
        Arena measured(nullptr);
        lay_out(measured, p, plan, streams);
        Arena arena(DeviceMemory::shared().reserve(measured.used()));
        lay_out(arena, p, plan, streams);
    }

private:
    void lay_out(Arena& arena, const Parameters& p, const Plan& plan, int streams) {
        const size_t layer = Precision::pieces * plan.plane, width = plan.width, hidden = p.hidden_layers;
        const size_t outputs = size_t(plan.points) * streams * p.channels;
        arena.take(h, layer * plan.h_layers);
        arena.take(weights, Precision::pieces * 2 * hidden * width * width);
        arena.take(vectors, (3 + hidden + p.channels) * width);
        arena.take(output_parts, width / 32 * outputs);
        if (!plan.keep) return;
        arena.take(coordinates, 2 * size_t(plan.points));
        arena.take(targets, size_t(plan.points) * std::max(3, streams * p.channels));
        arena.take(kept, plan.kept);
        arena.take(scales, plan.tiles);
        arena.take(x, layer * plan.x_layers);
        arena.take(d, layer * plan.d_layers);
        arena.take(outer_sums, hidden * plan.outer_shares * width * width);
        arena.take(bias_sums, hidden * plan.bias_shares * width);
        arena.take(first_sums, plan.first_shares * 3 * width);
        arena.take(output_sums, plan.output_shares * p.channels * width);
        arena.take(cotangents, outputs);
        arena.take(point_sums, size_t(std::max(blocks(plan.points), 4 * plan.output_shares)) * (1 + p.channels));
        arena.take(largest, plan.chunks);
        arena.take(arrived, plan.chunks);
    }
};

// Which of the packed weights of a hidden layer: for the way forward, or, transposed, for the way back.
enum class Packing { forward, backward };

// What the launchers of a call share: its parameters, plan and memory.
template <class Precision>
struct Context {
    typedef Matrix<Precision> Rows;

    const Parameters p;
    const Plan plan;
    const Workspace<Precision> memory;

    Vectors vectors() const { return {memory.vectors, plan.width}; }
    size_t layer_size() const { return Precision::pieces * plan.plane; }
    // Where the matrices of layer l are; without `keep` two places serve in turn.
    Rows h(int l) const { return {memory.h + (plan.keep ? l : l % 2) * layer_size(), plan.plane}; }
    Rows x(int l) const { return {memory.x + l * layer_size(), plan.plane}; }
    Rows d(int l) const { return {memory.d + l * layer_size(), plan.plane}; }
    float* bias_sums(int l) const { return memory.bias_sums + size_t(l - 1) * plan.bias_shares * plan.width; }
    Rows weights(int l, Packing packing) const {
        const size_t matrix = size_t(plan.width) * plan.width;
        return {memory.weights + (2 * (l - 1) + int(packing)) * matrix, 2 * p.hidden_layers * matrix};
    }
    // Of a chunk; `groups` of columns each leave a part of the outputs.
    OutputParts output_parts(const Points& points, int streams, int groups) const {
        return {memory.output_parts, vectors().output(p.hidden_layers, 0), p.channels, points.padded * streams,
                groups};
    }
};

}  // namespace
}  // namespace gpu
}  // namespace siren

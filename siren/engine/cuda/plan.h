// How the work of a call is divided: its points into chunks, so that memory does not grow with their number, and the
// points of a chunk into shares, each with sums of its own, so that sums are the same at every call.
//
// A path through the network (layers, chain or wide; see pass.h) fills a plan in. It never touches memory.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "cuda/parameters.h"
#include "cuda/runtime.h"
#include "cuda/tuning.h"

namespace siren {
namespace gpu {
namespace {

struct Plan {
    bool keep;            // what the way back needs
    int multiprocessors;
    int width;            // padded to whole column tiles
    int64_t points = 0;   // of a chunk, at most
    int chunks = 0;
    int tiles = 0;        // of 64 rows, in a chunk; not on the layers path
    size_t plane = 0;     // elements of a layer's matrix, in one piece

    int blocks = 0;       // of a kernel whose blocks stay until all tiles are done
    // In how many shares sums are left: the output weights' gradient, the first layer's, other biases', and outer
    // products, which are the other weights'.
    int output_shares = 0, first_shares = 0, bias_shares = 0, outer_shares = 0;
    // Whether those sums have the scale of the cotangents: the output weights', and all others.
    bool output_scaled = false, scaled = false;

    int h_layers = 0, x_layers = 0, d_layers = 0;  // matrices that are in memory
    size_t kept = 0;                               // x as threads of tiles keep it, 16 bytes each

    Plan(const Parameters& p, bool keep)
        : keep(keep), multiprocessors(device_attribute(cudaDevAttrMultiProcessorCount)),
          width((p.width + column_tile - 1) / column_tile * column_tile) {}

    int column_tiles() const { return width / column_tile; }

    // Cuts n points into chunks of whole groups, as even as can be. `tile_points` points take `tile_rows` rows.
    void cut(int64_t n, int group, int tile_points, int tile_rows) {
        const int64_t most =
            std::max(tuning::chunk_values / width / tile_rows * tile_points / group, 1) * int64_t(group);
        const int64_t padded = (n + group - 1) / group * group;
        const int64_t count = std::max<int64_t>((padded + most - 1) / most, 1);
        points = (padded / group + count - 1) / count * group;
        chunks = int(count);
        plane = size_t((points + tile_points - 1) / tile_points) * tile_rows * width;
    }
};

}  // namespace
}  // namespace gpu
}  // namespace siren

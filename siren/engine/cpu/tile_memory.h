// What both kinds of tiles (tile.h, amx/tile.h) work in: a tile's points, and memory for all its layers.
#pragma once

#include <algorithm>
#include <cstddef>

#include "cpu/gemm.h"
#include "cpu/layout.h"

namespace siren {
namespace detail {

class TileMemory {
public:
    // Takes `count` coordinates (count, 2). The tile is filled up to whole groups with points whose
    // cotangent stays zero.
    void load(const float* coordinates, int count) {
        points_ = round_up(count, group_);
        for (int p = 0; p < points_; ++p) {
            coordinates_[p] = p < count ? coordinates[2 * p] : 0.0f;
            coordinates_[points_ + p] = p < count ? coordinates[2 * p + 1] : 0.0f;
        }
        std::fill_n(cotangent_, size_t(streams_) * points_ * layout_.channels, 0.0f);
    }

protected:
    // Floats of everything but the matrices, for at most so many points.
    static size_t size_of_points(const Layout& layout, int streams, int max_points) {
        return aligned(2 * max_points) + 2 * aligned(size_t(streams) * max_points * layout.channels);
    }

    TileMemory(const Weights& weights, const float* scale, float* scratch, bool keep, int streams,
               int max_points, int group)
        : weights_(weights),
          layout_(weights.layout),
          keep_(keep),
          scale_{scale[0], scale[1]},
          coordinates_(scratch),
          output_(scratch + aligned(2 * max_points)),
          cotangent_(output_ + aligned(size_t(streams) * max_points * layout_.channels)),
          matrices_(scratch + size_of_points(layout_, streams, max_points)),
          streams_(streams),
          group_(group) {}

    const Weights weights_;
    const Layout layout_;
    const bool keep_;
    const float scale_[2];
    float *const coordinates_, *const output_, *const cotangent_, *const matrices_;
    int points_ = 0;

private:
    const int streams_, group_;
};

}  // namespace detail
}  // namespace siren

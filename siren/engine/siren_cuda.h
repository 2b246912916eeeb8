// SIREN (arXiv:2006.09661) on an NVIDIA GPU: what siren_cpu.h computes, by matrix products on tensor
// cores with the sine layers and their adjoints fused to their ends. See there for the mathematics.
//
// Points go in chunks, so that memory does not grow with their number. A chunk goes through the network layer by
// layer (layers_cuda.h). On Hopper processors, in training steps in 16 bits, networks up to 256 wide take it all the
// way in one kernel (chain_cuda.h), and wider ones have kernels of their own for each layer (wide_cuda.h).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "layers_cuda.h"
#ifdef SIREN_HOPPER
#include "chain_cuda.h"
#include "tile_outer_cuda.h"
#include "wide_cuda.h"
#endif

namespace siren {
namespace gpu {
namespace {

constexpr int chunk_values = 1 << 26;  // of a layer: bounds the memory of a chunk

// How training steps go where there are kernels for it.
enum class Way { layers, chain, wide };

// Device memory that is kept between calls and only grows.
class Workspace {
public:
    void* reserve(size_t bytes) {
        if (bytes > size_) {
            check(cudaFree(data_));
            data_ = nullptr;
            size_ = 0;
            check(cudaMalloc(&data_, bytes));
            size_ = bytes;
        }
        return data_;
    }

private:
    void* data_ = nullptr;
    size_t size_ = 0;
};

inline Workspace& workspace() {
    static Workspace shared;
    return shared;
}

template <class Kernel>
void allow_shared_memory(Kernel kernel, size_t bytes) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)));
}

inline int blocks(size_t items, int threads = 256) { return int((items + threads - 1) / threads); }

// `narrow`: the network is not wider than a product's tile.
template <class Precision, int streams, int channels, bool narrow>
class Pass {
    typedef typename Precision::Piece Piece;
    typedef Matrix<Precision> Rows;
    static constexpr int group = point_group(streams);

public:
    // `keep`: what backward() needs is kept.
    Pass(const Parameters& parameters, const float* scale, int64_t n, bool keep)
        : p_(parameters), keep_(keep) {
        int device = 0;
        check(cudaGetDevice(&device));
        check(cudaDeviceGetAttribute(&processors_, cudaDevAttrMultiProcessorCount, device));
        width_ = (p_.width + column_tile - 1) / column_tile * column_tile;
        if (keep && p_.hidden_layers > 0) prepare(Tiles());
        const float unit = p_.omega * std::max(std::abs(scale[0]), std::abs(scale[1]));
        const float kappa = unit > 0 ? std::exp2(std::round(std::log2(2 / unit))) : 1.0f;
        for (int i = 0; i < 2; ++i) points_.scale[i] = kappa * scale[i];
        points_.inverse[0] = 1;
        points_.inverse[1] = points_.inverse[2] = 1 / kappa;
        points_.inverse[3] = 1 / (kappa * kappa);

        const int64_t most =
            std::max(chunk_values / width_ / rows_.rows * rows_.points / group, 1) * group;
        const int64_t padded = (n + group - 1) / group * group;
        const int64_t chunks = std::max<int64_t>((padded + most - 1) / most, 1);
        chunk_points_ = (padded / group + chunks - 1) / chunks * group;
        chunks_ = int(chunks);
        shares_ = first_shares_ = 2 * processors_;
        const int column_tiles = width_ / column_tile;
        splits_ = std::max(1, processors_ / (2 * column_tiles * column_tiles *
                                             std::max(1, p_.hidden_layers)));
        if (tiled_) share_tiles(Tiles());

        plane_ = size_t(chunk_points_ + rows_.points - 1) / rows_.points * rows_.rows * width_;
        const int layers = p_.hidden_layers + 1;
        const size_t values = size_t(chunk_points_) * streams * p_.channels;
        // Measured first, then laid out.
        for (int turn = 0; turn < 2; ++turn) {
            char* const start =
                turn == 0 ? nullptr : static_cast<char*>(workspace().reserve(used_));
            used_ = 0;
            // See chain_cuda.h for what is not kept there; tiles of d(0) are nowhere.
            const int kept_h = !keep ? 2 : tiled_ && Tiles::value == Way::chain ? layers - 2 : layers;
            h_ = take<Piece>(start, Precision::pieces * plane_ * kept_h);
            if (keep) {
                if (tiled_) kept_ = take<uint4>(start, kept_size_);
                if (tiled_) scales_ = take<float>(start, plane_ / width_ / rows_.rows);
                if (!tiled_) x_ = take<Piece>(start, Precision::pieces * plane_ * layers);
                d_ = take<Piece>(start, Precision::pieces * plane_ * (tiled_ ? layers - 1 : layers));
                outer_partial_ =
                    take<float>(start, size_t(p_.hidden_layers) * splits_ * width_ * width_);
                bias_partial_ = take<float>(start, size_t(layers) * std::max(shares_, splits_) * width_);
                first_partial_ = take<float>(start, size_t(first_shares_) * 3 * width_);
                output_partial_ = take<float>(start, size_t(shares_) * p_.channels * width_);
                cotangent_ = take<float>(start, values);
                point_sums_ = take<double>(start, std::max(blocks(chunk_points_), 4 * shares_) *
                                                      (1 + p_.channels));
                all_largest_ = take<unsigned>(start, 2 * chunks);
            }
            output_parts_ = take<float>(start, width_ / 32 * values);
            packed_plane_ = size_t(2 * p_.hidden_layers) * width_ * width_;
            packed_ = take<Piece>(start, Precision::pieces * packed_plane_);
            vectors_.width = width_;
            vectors_.data = take<float>(start, size_t(3 + p_.hidden_layers + p_.channels) * width_);
        }
        pack_vectors_kernel<<<dim3(blocks(width_), 3 + p_.hidden_layers + p_.channels), 256>>>(
            p_, vectors_, all_largest_, keep ? 2 * chunks_ : 0);
        if (p_.hidden_layers > 0) {
            pack_matrices_kernel<Precision>
                <<<dim3(blocks(width_ / 8, 32), width_, 2 * p_.hidden_layers), 32>>>(
                    p_, Rows{packed_, packed_plane_}, width_, tiled_);
        }
        check(cudaGetLastError());
    }

    int64_t chunk_points() const { return chunk_points_; }

    // Evaluates points (count, 2), at most chunk_points().
    void forward(const float* coordinates, int count) {
        take_points(coordinates, count);
        const int last = p_.hidden_layers;
        parts_ = output_parts(width_ / 32);
        // A product's end computes the first layer's x anew.
        first_layer_kernel<Precision, streams><<<blocks(size_t(points_.padded) * width_ / 8), 256>>>(
            points_, vectors_, h(0), x(0), keep_ && last == 0, last == 0 ? parts_ : OutputParts{});
        for (int l = 1; l <= last; ++l) {
            const Ending<Precision> end{h(l),   x(l),    {},      vectors_.bias(l), keep_,
                                        parts_, nullptr, points_, vectors_};
            if (l < last) product<End::sine>(h(l - 1), weights(l, false), end);
            if (l == last) product<End::last_sine>(h(l - 1), weights(l, false), end);
        }
        check(cudaGetLastError());
    }

    // The streams (count, streams, channels).
    void outputs(float* result) {
        output_kernel<streams>
            <<<blocks(size_t(points_.count) * streams * p_.channels), 256>>>(points_, p_, parts_, result);
        check(cudaGetLastError());
    }

    // Weighted squared error against target, and its gradient, at points (count, 2): of chunk number 0
    // written, of others added.
    void squared_error(int chunk, const float* coordinates, int count, const float* target,
                       const float* weight, double mean, float* loss, float* gradient) {
        differentiate(chunk, coordinates, count, {target, weight, nullptr, float(mean)}, mean, loss,
                      gradient);
    }

    // The same from given cotangents (count, streams, channels), without a loss.
    void product(int chunk, const float* coordinates, int count, const float* cotangent,
                 float* gradient) {
        differentiate(chunk, coordinates, count, {nullptr, nullptr, cotangent, 1}, 1, nullptr,
                      gradient);
    }

private:
    template <class T>
    T* take(char* start, size_t count) {
        T* const result = reinterpret_cast<T*>(start + used_);
        used_ += (count * sizeof(T) + 255) / 256 * 256;
        return result;
    }
    void take_points(const float* coordinates, int count) {
        points_.coordinates = coordinates;
        points_.count = count;
        points_.padded = (count + group - 1) / group * group;
    }
    OutputParts output_parts(int groups) const {
        return {output_parts_, vectors_.output(p_.hidden_layers, 0), p_.channels, points_.padded * streams,
                groups};
    }
    size_t layer_size() const { return Precision::pieces * plane_; }
    // Planes are one after the other within a layer.
    Rows h(int l) const { return {h_ + (keep_ ? l : l % 2) * layer_size(), plane_}; }
    Rows x(int l) const { return {x_ + l * layer_size(), plane_}; }
    Rows d(int l) const { return {d_ + l * layer_size(), plane_}; }
    float* bias_partial(int l) const { return bias_partial_ + size_t(l) * shares_ * width_; }
    Rows weights(int l, bool transposed) const {
        const size_t index = 2 * (l - 1) + transposed;
        return {packed_ + index * width_ * width_, packed_plane_};
    }

    template <End kind>
    void product(Rows a, Rows b, const Ending<Precision>& end) {
        typedef ProductShape<Precision, streams> Shape;
        const auto kernel = product_kernel<Precision, streams, kind>;
        const int tiles = points_.padded * streams / Shape::rows;
        allow_shared_memory(kernel, Shape::bytes);
        // As many blocks as have shares of the bias, even if there are fewer tiles.
        kernel<<<dim3(processors_, width_ / column_tile), Shape::threads, Shape::bytes>>>(
            a, b, end, tiles, width_);
    }

    void differentiate(int chunk, const float* coordinates, int count, const Error& error,
                       double mean, float* loss, float* gradient) {
        const int last = p_.hidden_layers, width = p_.width;
        const bool add = chunk > 0;
        unsigned* const largest = all_largest_ + chunk;
        int sums = blocks(count);
        if (tiled_) {
            take_points(coordinates, count);
            sums = tiled_step(error, largest, all_largest_ + chunks_ + chunk, Tiles());
        } else {
            forward(coordinates, count);
            backward(error, largest);
        }
        finish_sums_kernel<<<1 + p_.channels, 256>>>(point_sums_, sums, mean, loss,
                                                     gradient + p_.bias(last + 1), add);
        if (last > 0 && !tiled_) {
            const size_t bytes = OuterShape<Precision>::bytes;
            allow_shared_memory(outer_kernel<Precision>, bytes);
            outer_kernel<Precision>
                <<<dim3(splits_, width_ / 128, last * (width_ / column_tile)), outer_threads, bytes>>>(
                    d(1), h(0), layer_size(), outer_partial_, points_.padded * streams, width_);
        }

        const size_t layer = size_t(width) * width + width;
        const bool chained = tiled_ && Tiles::value == Way::chain;  // its sums are without scales
        float* const first_bias = last > 0 ? first_partial_ + 2 * size_t(width_) : bias_partial(0);
        if (last > 0) {
            const Parts products{{{outer_partial_, splits_, width_, width, last, p_.omega, !chained,
                                   gradient + p_.weight(1), layer, size_t(width), 1}}};
            finish_kernel<1><<<dim3(blocks(width), last * width), 256>>>(products, streams, width, width_,
                                                                         largest, add);
        }
        const Parts sums_of_rows{{
            {bias_partial(1), tiled_ ? splits_ : shares_, 1, 1, last, p_.omega, !chained,
             gradient + p_.bias(1), layer, 0, 1},
            {first_partial_, first_shares_, last > 0 ? 3 : 2, 2, 1, p_.omega, !chained, gradient, 0, 1, 2},
            {first_bias, first_shares_, last > 0 ? 3 : 1, 1, 1, p_.omega, !chained, gradient + p_.bias(0), 0, 0, 1},
            {output_partial_, shares_, p_.channels, p_.channels, 1, 1.0f, tiled_ && !chained,
             gradient + p_.weight(last + 1), 0, size_t(width), 1},
        }};
        finish_kernel<32><<<dim3(blocks(width, 8), last + 3 + p_.channels), 256>>>(
            sums_of_rows, streams, width, width_, largest, add);
        check(cudaGetLastError());
    }

    // Layer by layer; the sums of the last and the first layer with them.
    void backward(const Error& error, unsigned* largest) {
        const int last = p_.hidden_layers;
        cotangent_kernel<streams><<<blocks(points_.count), 256>>>(points_, p_, parts_, error,
                                                                  cotangent_, largest, point_sums_);
        const dim3 shares(shares_, width_ / 256);
        const auto output_adjoint = p_.channels == 1
                                        ? output_adjoint_kernel<Precision, streams, 1>
                                        : output_adjoint_kernel<Precision, streams, 3>;
        for (int channel = 0; channel < p_.channels; channel += 3) {
            output_adjoint<<<shares, 256>>>(points_, p_, vectors_, h(last), x(last), d(last),
                                            cotangent_, largest, channel, bias_partial(last),
                                            output_partial_);
        }
        for (int l = last; l > 0; --l) {
            Ending<Precision> end{{}, x(l - 1), d(l - 1), nullptr, false, {}, nullptr, points_, vectors_};
            end.sums = l > 1 ? bias_partial(l - 1) : first_partial_;
            if (l > 1) product<End::adjoint>(d(l), weights(l, true), end);
            if (l == 1) product<End::first_adjoint>(d(l), weights(l, true), end);
        }
        if (last == 0) {
            first_adjoint_kernel<Precision, streams>
                <<<shares, 256>>>(points_, width_, d(0), first_partial_);
        }
    }

    typedef std::integral_constant<Way, Way::layers> ByLayers;
    typedef std::integral_constant<Way, Way::chain> Chained;
    typedef std::integral_constant<Way, Way::wide> Wide;
#ifdef SIREN_HOPPER
    static constexpr bool tileable = Precision::pieces == 1 && channels <= 4;
    typedef std::integral_constant<Way, !tileable ? Way::layers : narrow ? Way::chain : Way::wide> Tiles;

    // Blocks that are there in pairs. attributes[1] makes a launch cooperative.
    static cudaLaunchConfig_t in_clusters(dim3 grid, int threads, size_t bytes, dim3 cluster,
                                          cudaLaunchAttribute (&attributes)[2]) {
        attributes[0].id = cudaLaunchAttributeClusterDimension;
        attributes[0].val.clusterDim.x = cluster.x;
        attributes[0].val.clusterDim.y = cluster.y;
        attributes[0].val.clusterDim.z = cluster.z;
        attributes[1].id = cudaLaunchAttributeCooperative;
        attributes[1].val.cooperative = 1;
        cudaLaunchConfig_t config{};
        config.gridDim = grid;
        config.blockDim = dim3(threads);
        config.dynamicSmemBytes = bytes;
        config.attrs = attributes;
        config.numAttrs = 1;
        return config;
    }
    // How many clusters of such blocks can be there at the same time.
    template <class Kernel>
    static int most_clusters(Kernel kernel, const cudaLaunchConfig_t& config) {
        int device = 0, most_bytes = 0, clusters = 0;
        check(cudaGetDevice(&device));
        check(cudaDeviceGetAttribute(&most_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
        if (config.dynamicSmemBytes > size_t(most_bytes)) return 0;
        allow_shared_memory(kernel, config.dynamicSmemBytes);
        check(cudaOccupancyMaxActiveClusters(&clusters, kernel, &config));
        return clusters;
    }
    void multiply_outer(bool compute_first) {
        typedef TileOuterShape<Precision, streams> Shape;
        const auto kernel = tile_outer_kernel<Precision, streams>;
        allow_shared_memory(kernel, Shape::bytes);
        const int column_tiles = width_ / column_tile;
        cudaLaunchAttribute attributes[2];
        const cudaLaunchConfig_t config =
            in_clusters(dim3(splits_, 2 * column_tiles, p_.hidden_layers * column_tiles), Shape::threads,
                        Shape::bytes, dim3(1, Shape::cluster), attributes);
        check(cudaLaunchKernelEx(&config, kernel, points_, vectors_, static_cast<const Piece*>(d_),
                                 static_cast<const Piece*>(h_), plane_, compute_first,
                                 static_cast<const float*>(compute_first ? scales_ : nullptr), outer_partial_,
                                 bias_partial(1), Shape::OfTile::tiles(points_.count), width_));
    }

    // ---- All the way in one kernel: chain_cuda.h

    cudaLaunchConfig_t chain_launch(int blocks, cudaLaunchAttribute (&attributes)[2]) const {
        typedef ChainShape<Precision, streams, channels> Shape;
        cudaLaunchConfig_t config =
            in_clusters(dim3(blocks), Shape::threads, Shape::bytes(p_.hidden_layers),
                        dim3(Shape::cluster), attributes);
        config.numAttrs = 2;
        return config;
    }
    void prepare(Chained) {
        typedef ChainShape<Precision, streams, channels> Shape;
        cudaLaunchAttribute attributes[2];
        tile_blocks_ = Shape::cluster * most_clusters(chain_kernel<Precision, streams, channels>,
                                                      chain_launch(Shape::cluster, attributes));
        tiled_ = tile_blocks_ > 0;
        if (tiled_) rows_ = {Shape::OfTile::points, Shape::OfTile::rows};
    }
    // Among no more blocks than make the largest share of a chunk's tiles as small as it can be.
    void share_tiles(Chained) {
        typedef ChainShape<Precision, streams, channels> Shape;
        const int tiles = Shape::OfTile::tiles(int(chunk_points_));
        const int turns = (tiles + Shape::groups * tile_blocks_ - 1) / (Shape::groups * tile_blocks_);
        const int of_cluster = Shape::groups * Shape::cluster * turns;
        tile_blocks_ = (tiles + of_cluster - 1) / of_cluster * Shape::cluster;
        shares_ = first_shares_ = tile_blocks_ * Shape::groups;
        kept_size_ = size_t(shares_) * (p_.hidden_layers - 1) * Shape::OfTile::kept;
    }
    int tiled_step(const Error& error, unsigned* largest, unsigned* arrived, Chained) {
        ChainArguments<Precision> arguments{
            points_, p_,    vectors_, packed_, h_,             d_,              plane_,
            kept_,   error, largest,  arrived, scales_, first_partial_, output_partial_, point_sums_};
        cudaLaunchAttribute attributes[2];
        const cudaLaunchConfig_t config = chain_launch(tile_blocks_, attributes);
        check(cudaLaunchKernelEx(&config, chain_kernel<Precision, streams, channels>, arguments));
        multiply_outer(true);
        return 4 * shares_;
    }

    // ---- Layer by layer: wide_cuda.h

    template <End kind>
    void multiply_tiles(const Piece* tiles, Rows weights, int layer, const float* vectors, Piece* result) {
        typedef WideShape<Precision, streams> Shape;
        const auto kernel = wide_product_kernel<Precision, streams, kind>;
        allow_shared_memory(kernel, Shape::bytes);
        const WideProduct<Precision> product{tiles,
                                             weights.data,
                                             result,
                                             layer > 0 ? kept_of_layer(layer) : nullptr,
                                             vectors,
                                             parts_,
                                             first_partial_,
                                             points_,
                                             Shape::OfTile::tiles(points_.count),
                                             width_};
        cudaLaunchAttribute attributes[2];
        const cudaLaunchConfig_t config =
            in_clusters(dim3(tile_blocks_, width_ / column_tile), Shape::threads, Shape::bytes,
                        dim3(Shape::cluster), attributes);
        check(cudaLaunchKernelEx(&config, kernel, product));
    }
    uint4* kept_of_layer(int l) const { return kept_ + (l - 1) * kept_size_ / p_.hidden_layers; }

    void prepare(Wide) {
        typedef WideShape<Precision, streams> Shape;
        const int column_tiles = width_ / column_tile;
        cudaLaunchAttribute attributes[2];
        const int clusters = most_clusters(wide_product_kernel<Precision, streams, End::sine>,
                                           in_clusters(dim3(Shape::cluster), Shape::threads, Shape::bytes,
                                                       dim3(Shape::cluster), attributes));
        tiled_ = clusters > 0;
        if (!tiled_) return;
        tile_blocks_ = Shape::cluster * std::max(1, clusters / column_tiles);
        rows_ = {Shape::OfTile::points, Shape::OfTile::rows};
    }
    void share_tiles(Wide) {
        typedef WideShape<Precision, streams> Shape;
        const int tiles = Shape::OfTile::tiles(int(chunk_points_)), column_tiles = width_ / column_tile;
        first_shares_ = tile_blocks_ * Shape::groups;
        kept_size_ = size_t(p_.hidden_layers) * tiles * column_tiles * Shape::OfTile::kept;
        // The outer products' time is that of the tiles of a share, and of writing its sums, which is that of
        // about eight tiles, for each turn of the blocks.
        const int units = 2 * column_tiles * column_tiles * p_.hidden_layers;
        double least = 0;
        for (int splits = 1; splits <= 16; ++splits) {
            const int turns = (units * splits + processors_ - 1) / processors_;
            const double time = turns * (double(tiles) / splits + 8);
            if (splits == 1 || time < least) {
                least = time;
                splits_ = splits;
            }
        }
    }
    int tiled_step(const Error& error, unsigned* largest, unsigned*, Wide) {
        typedef TileShape<Precision, streams> Shape;
        typedef WideOutputShape<Precision, streams> OutputShape;
        const int last = p_.hidden_layers, tiles = Shape::tiles(points_.count);
        const int column_tiles = width_ / column_tile;
        parts_ = output_parts(column_tiles);

        const auto first = wide_first_kernel<Precision, streams>;
        const size_t first_bytes = Shape::bytes + 3 * column_tile * sizeof(float);
        allow_shared_memory(first, first_bytes);
        first<<<dim3(tiles, column_tiles), Shape::threads, first_bytes>>>(points_, vectors_, h(0).data);
        for (int l = 1; l <= last; ++l) {
            const auto multiply = l < last ? &Pass::template multiply_tiles<End::sine>
                                           : &Pass::template multiply_tiles<End::last_sine>;
            (this->*multiply)(h(l - 1).data, weights(l, false), l, vectors_.bias(l), h(l).data);
        }

        cotangent_kernel<streams><<<blocks(points_.count), 256>>>(points_, p_, parts_, error,
                                                                  cotangent_, largest, point_sums_);
        const auto output = wide_output_kernel<Precision, streams, channels>;
        allow_shared_memory(output, OutputShape::bytes(channels));
        output<<<dim3(shares_, column_tiles), Shape::threads, OutputShape::bytes(channels)>>>(
            points_, vectors_.output(last, 0), h(last).data, kept_of_layer(last), d_of_tiles(last), cotangent_,
            largest, output_partial_, tiles, width_);
        for (int l = last; l > 1; --l) {
            multiply_tiles<End::adjoint>(d_of_tiles(l), weights(l, true), l - 1, nullptr, d_of_tiles(l - 1));
        }
        multiply_tiles<End::first_adjoint>(d_of_tiles(1), weights(1, true), 0, vectors_.first(0), nullptr);
        multiply_outer(false);
        return blocks(points_.count);
    }
    Piece* d_of_tiles(int l) const { return d_ + (l - 1) * plane_; }
#else
    typedef ByLayers Tiles;
#endif
    void prepare(ByLayers) {}
    void share_tiles(ByLayers) {}
    int tiled_step(const Error&, unsigned*, unsigned*, ByLayers) { return 0; }

    const Parameters p_;
    const bool keep_;
    bool tiled_ = false;  // as Tiles says; otherwise by layers
    int tile_blocks_ = 0;
    struct {
        int points, rows;
    } rows_{1, streams};  // that so many points take
    size_t kept_size_ = 0;
    int processors_ = 0, width_ = 0, splits_ = 0, shares_ = 0, first_shares_ = 0;
    int64_t chunk_points_ = 0;
    int chunks_ = 1;
    size_t plane_ = 0, packed_plane_ = 0, used_ = 0;
    Points points_{};
    Vectors vectors_{};
    OutputParts parts_{};
    Piece *h_ = nullptr, *x_ = nullptr, *d_ = nullptr, *packed_ = nullptr;
    uint4* kept_ = nullptr;
    float *outer_partial_ = nullptr, *bias_partial_ = nullptr, *first_partial_ = nullptr;
    float* scales_ = nullptr;  // see chain_cuda.h
    float *output_partial_ = nullptr, *output_parts_ = nullptr, *cotangent_ = nullptr;
    double* point_sums_ = nullptr;
    unsigned* all_largest_ = nullptr;
};

}  // namespace
}  // namespace gpu
}  // namespace siren

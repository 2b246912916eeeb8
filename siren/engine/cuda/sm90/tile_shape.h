// The shape of a tile of 64 rows and 256 columns: which of its rows and numbers are whose.
#pragma once

#include "cuda/parameters.h"
#include "cuda/sm90/ptx.h"

namespace siren {
namespace gpu {
namespace {

// Which rows hold the streams of which points. A warp has 16 rows of the tile, and a product leaves each row to four
// lanes. With 1, 3 and 4 streams, where 2.u_0 is stream u_0 of a warp's point 2 and L the Laplacian:
//
//     lanes   rows     1 stream      4 streams      3 streams
//      0- 3   0,  8    0.u   8.u     0.u    0.u_0   0.u    0.u_0
//      4- 7   1,  9    1.u   9.u     0.u_1  0.L     0.u_1  4.u
//      8-11   2, 10    2.u  10.u     1.u    1.u_0   1.u    1.u_0
//     12-15   3, 11    3.u  11.u     1.u_1  1.L     1.u_1  4.u_0
//     16-19   4, 12    4.u  12.u     2.u    2.u_0   2.u    2.u_0
//     20-23   5, 13    5.u  13.u     2.u_1  2.L     2.u_1  4.u_1
//     24-27   6, 14    6.u  14.u     3.u    3.u_0   3.u    3.u_0
//     28-31   7, 15    7.u  15.u     3.u_1  3.L     3.u_1  -
//
// An epilogue takes a tile in steps of 16 columns, of which lane l has columns 2 (l % 4) + {0, 1} and those 8 further on,
// of both its rows. With derivatives, lanes l and l ^ 4 hold two rows each of the same point. They exchange half of their
// columns: the lower lane gets the first eight of all four rows, the upper one the other eight, so that each has all
// streams of two columns. Three streams leave the fourth row free: of every 16 rows, the free ones hold a fifth point
// (fifth_point.h).
template <class Precision, int streams>
struct TileShape {
    typedef typename Precision::Piece Piece;
    static constexpr int width = column_tile, rows = 64;
    static constexpr bool fifth = streams == 3;
    static constexpr int points = streams == 1 ? rows : fifth ? rows / 16 * 5 : rows / 4;
    static constexpr int points_of_warp = points / 4;
    static constexpr int threads = 128;
    static constexpr int block_bytes = rows * block_columns * sizeof(Piece), bytes = 4 * block_bytes;
    static constexpr int weight_bytes = width * block_columns * sizeof(Piece);  // of 64 columns of an operand
    static constexpr int steps = 16;  // of 16 columns, in which an epilogue takes a tile
    static constexpr int kept = steps * threads;  // each thread's eight numbers of each step

    // A thread has eight numbers of a step: of one stream, two points and four columns; or of four streams and two
    // columns.
    static constexpr int items = streams == 1 ? 8 : 2, columns = streams == 1 ? 4 : 2;
    static constexpr int points_of_thread = streams == 1 ? 2 : 1;
    __device__ static constexpr int number(int item, int stream) { return 2 * stream + item; }
    __device__ static constexpr int column(int item) {
        return streams == 1 ? item / 4 * 2 + item % 2 : item;
    }
    __device__ static constexpr int point(int item) { return streams == 1 ? item / 2 % 2 : 0; }

    // Which of a warp's 16 rows has a stream of its point i. Point 4 has three streams; its fourth row is unused.
    __device__ static constexpr int row_of_warp(int i, int stream) {
        return streams == 1 ? i : i < 4 ? 2 * i + stream / 2 + stream % 2 * 8 : 9 + 2 * stream;
    }
    __device__ static constexpr int row(int point, int stream) {
        return point / points_of_warp * 16 + row_of_warp(point % points_of_warp, stream);
    }
    __host__ __device__ static constexpr int tiles(int points_there) {
        return (points_there + points - 1) / points;
    }
};

}  // namespace
}  // namespace gpu
}  // namespace siren

// The multiply-add peak of this machine: `peak THREADS SECONDS` prints it in GFLOP/s, float32, and the
// share of the processors that it was given meanwhile (1 on a machine with nothing else to do).
//
// Every thread works on vectors that never leave its registers. There are enough of them to hide the
// latency of a multiply-add on any processor to date.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <thread>
#include <vector>

#if defined(__AVX512F__)
constexpr int lanes = 16, accumulators = 24;
#elif defined(__AVX__)
constexpr int lanes = 8, accumulators = 12;
#else
constexpr int lanes = 4, accumulators = 12;
#endif

typedef float Vector __attribute__((vector_size(lanes * 4)));

static double now() {
    using namespace std::chrono;
    return duration<double>(steady_clock::now().time_since_epoch()).count();
}

// Multiplies and adds for `seconds`; returns operations per second.
static double measure(double seconds) {
    volatile float hidden = 1;  // a constant that the compiler does not know
    const float one = hidden;
    const Vector factor = Vector{} + 0.999f * one, term = Vector{} + 0.001f * one;
    Vector sums[accumulators];
    for (int i = 0; i < accumulators; ++i) sums[i] = Vector{} + i * one;
    const int iterations = 1 << 18;
    double operations = 0;
    const double start = now();
    while (now() - start < seconds) {
        for (int iteration = 0; iteration < iterations; ++iteration)
#pragma GCC unroll 24
            for (int i = 0; i < accumulators; ++i) sums[i] = sums[i] * factor + term;
        operations += 2.0 * lanes * accumulators * iterations;
    }
    const double elapsed = now() - start;
    for (int i = 0; i < accumulators; ++i) hidden = sums[i][0];  // keeps the work alive
    return operations / elapsed;
}

int main(int argc, char** argv) {
    const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
    const double seconds = argc > 2 ? std::atof(argv[2]) : 1;
    std::vector<double> rates(threads);
    const double start = now();
    std::vector<std::thread> team;
    for (int i = 0; i < threads; ++i)
        team.emplace_back([&rates, i, seconds] { rates[i] = measure(seconds); });
    double total = 0;
    for (int i = 0; i < threads; ++i) {
        team[i].join();
        total += rates[i];
    }
    const double given = double(std::clock()) / CLOCKS_PER_SEC / ((now() - start) * threads);
    std::printf("%.1f %.3f\n", total / 1e9, given);
}

// Times a training step's kernels on a GPU without Jittor, a minute from source to result:
//
//     nvcc -O3 -std=c++17 -arch=native -Isiren/engine benchmarks/kernels.cu -o kernels -ldl
//     ./kernels [width] [points] [seconds]
//
// On Hopper (H100, H200): -DSIREN_HOPPER -gencode=arch=compute_90a,code=sm_90a instead of -arch=native;
// without it, the kernels for other GPUs run. siren/engine/README.md says what to look for in the machine code.
//
// For each loss, gray: milliseconds of loss and gradient in fp16, repeated for so many seconds, and what the
// driver says of the GPU meanwhile; then the distance of the gradient from that in fp32, |a - b| / |b|,
// which other kernels compute, and whether a second call gives the same bits.

#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <random>
#include <utility>
#include <vector>

#include "cuda/pass.h"

namespace {

using namespace siren::gpu;

constexpr int side = 256, layers = 3;
constexpr float omega = 30;

// The driver's meters of the first GPU; zeros where there are none.
class Meter {
public:
    Meter() {
        void* const library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
        if (!library) return;
        const auto init = reinterpret_cast<int (*)()>(dlsym(library, "nvmlInit_v2"));
        const auto by_index = reinterpret_cast<int (*)(unsigned, void**)>(
            dlsym(library, "nvmlDeviceGetHandleByIndex_v2"));
        if (!init || !by_index || init() != 0 || by_index(0, &gpu_) != 0) return;
        energy_ = reinterpret_cast<int (*)(void*, unsigned long long*)>(
            dlsym(library, "nvmlDeviceGetTotalEnergyConsumption"));
        clock_ = reinterpret_cast<int (*)(void*, int, unsigned*)>(
            dlsym(library, "nvmlDeviceGetClockInfo"));
    }
    double joules() const {
        unsigned long long millijoules = 0;
        if (energy_) energy_(gpu_, &millijoules);
        return 1e-3 * millijoules;
    }
    double megahertz() const {
        constexpr int of_multiprocessors = 1;
        unsigned result = 0;
        if (clock_) clock_(gpu_, of_multiprocessors, &result);
        return result;
    }

private:
    void* gpu_ = nullptr;
    int (*energy_)(void*, unsigned long long*) = nullptr;
    int (*clock_)(void*, int, unsigned*) = nullptr;
};

// As SIREN draws them.
std::vector<float> random_parameters(int width) {
    std::mt19937 random(0);
    std::vector<float> result;
    const auto draw = [&](int count, float bound) {
        std::uniform_real_distribution<float> uniform(-bound, bound);
        for (int i = 0; i < count; ++i) result.push_back(uniform(random));
    };
    for (int layer = 0, inputs = 2; layer <= layers + 1; ++layer, inputs = width) {
        const int outputs = layer <= layers ? width : 1;
        draw(outputs * inputs, layer == 0 ? 0.5f : std::sqrt(6.0f / inputs) / omega);
        draw(outputs, 1 / std::sqrt(float(inputs)));
    }
    return result;
}

std::vector<float> random_normal(size_t count, float deviation) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal(0, deviation);
    std::vector<float> result(count);
    for (float& x : result) x = normal(random);
    return result;
}

class OnDevice {
public:
    explicit OnDevice(const std::vector<float>& values) : OnDevice(values.size()) {
        check(cudaMemcpy(data_, values.data(), 4 * size_, cudaMemcpyHostToDevice));
    }
    explicit OnDevice(size_t size) : size_(size) {
        check(cudaMalloc(&data_, 4 * size));
        check(cudaMemset(data_, 0xff, 4 * size));  // NaN
    }
    OnDevice(const OnDevice&) = delete;
    ~OnDevice() { cudaFree(data_); }
    operator float*() const { return data_; }
    std::vector<float> values() const {
        std::vector<float> result(size_);
        check(cudaMemcpy(result.data(), data_, 4 * size_, cudaMemcpyDeviceToHost));
        return result;
    }

private:
    float* data_ = nullptr;
    size_t size_;
};

struct Measured {
    std::vector<float> gradient;
    bool same;  // at every call
    double milliseconds, watts, millijoules, megahertz;
};

template <class Precision, int streams, bool narrow>
Measured measure(int width, int points, double seconds) {
    const int supervised = streams == 3 ? 2 : 1;
    std::vector<float> coordinates;
    for (int i = 0; i < points; ++i) {
        coordinates.push_back(2.0f * (i / side) / (side - 1) - 1);
        coordinates.push_back(2.0f * (i % side) / (side - 1) - 1);
    }
    const auto start_values = random_parameters(width);
    const OnDevice parameters(start_values), x(coordinates);
    const OnDevice target(random_normal(size_t(points) * supervised, 0.01f));
    const OnDevice loss(1), gradient(start_values.size());
    const Parameters network{parameters, width, layers, 1, omega};
    const float scale[2] = {2.0f / (side - 1), 2.0f / (side - 1)};
    const auto step = [&] {
        Pass<Precision, streams, 1, narrow> pass(network, scale, points, Wanted::gradient);
        int chunk = 0;
        for (int64_t begin = 0; begin < points; begin += pass.chunk_points()) {
            pass.squared_error(chunk++, x + 2 * begin, int(std::min(pass.chunk_points(), points - begin)),
                               target + begin * supervised, 1.0 / (double(points) * supervised),
                               {loss, gradient, nullptr, nullptr});
        }
    };
    step();
    Measured result{};
    result.gradient = gradient.values();
    step();
    result.same = gradient.values() == result.gradient;

    static const Meter meter;
    typedef std::chrono::steady_clock Clock;
    const auto since = [](Clock::time_point start) {
        return std::chrono::duration<double>(Clock::now() - start).count();
    };
    const auto run = [&](double wanted) {  // steps and mean clock
        const auto start = Clock::now();
        int steps = 0, looks = 0;
        double clock = 0;
        do {
            for (int i = 0; i < 20; ++i) step();
            check(cudaDeviceSynchronize());
            steps += 20;
            clock += meter.megahertz();
            ++looks;
        } while (since(start) < wanted);
        return std::make_pair(steps, clock / looks);
    };
    run(seconds / 2);  // until the clock has settled
    const auto start = Clock::now();
    const double joules = meter.joules();
    const auto done = run(seconds);
    const double taken = since(start), used = meter.joules() - joules;
    result.milliseconds = 1e3 * taken / done.first;
    result.watts = used / taken;
    result.millijoules = 1e3 * used / done.first;
    result.megahertz = done.second;
    return result;
}

template <int streams, bool narrow>
void show(const char* name, int width, int points, double seconds) {
    const Measured ours = measure<Fp16, streams, narrow>(width, points, seconds);
    const Measured exact = measure<Fp32, streams, narrow>(width, points, 0);
    double difference = 0, square = 0;
    for (size_t i = 0; i < exact.gradient.size(); ++i) {
        const double a = ours.gradient[i], b = exact.gradient[i];
        difference += (a - b) * (a - b);
        square += b * b;
    }
    std::printf("| %-9s | %7.4f | %5.0f | %5.0f | %6.1f | %7.1e | %s |\n", name, ours.milliseconds, ours.watts,
                ours.megahertz, ours.millijoules, std::sqrt(difference / square),
                ours.same && exact.same ? "yes " : "NO  ");
    std::fflush(stdout);
}

}  // namespace

int main(int count, char** arguments) try {
    const int width = count > 1 ? std::atoi(arguments[1]) : 256;
    const int points = count > 2 ? std::atoi(arguments[2]) : side * side;
    const double seconds = count > 3 ? std::atof(arguments[3]) : 1.0;
    if (width < 1 || points < 1) {
        std::fprintf(stderr, "width and points are whole numbers from 1\n");
        return 2;
    }
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, 0));
    std::printf("%s, %d points, %d wide\n\n", properties.name, points, width);
    std::printf("| loss      |      ms |     W |   MHz |     mJ | off by  | same |\n");
    std::printf("| --------- | ------: | ----: | ----: | -----: | ------: | ---- |\n");
    const bool narrow = width <= column_tile;
    (narrow ? show<1, true> : show<1, false>)("fit", width, points, seconds);
    (narrow ? show<3, true> : show<3, false>)("gradient", width, points, seconds);
    (narrow ? show<4, true> : show<4, false>)("Laplacian", width, points, seconds);
    return 0;
} catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}

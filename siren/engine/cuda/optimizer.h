// A step of Muon on a GPU. SIREN_PRECISION says of what numbers products are, SIREN_NARROW which kernel is compiled.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include "cuda/muon_launch.h"
#include "optimizer_numbers.h"

namespace siren {
namespace {

// `muon` of reference.py, on products of 16-bit numbers.
class Muon {
    typedef gpu::SIREN_PRECISION::Piece Piece;
    typedef std::conditional<SIREN_NARROW, gpu::MuonPanelsLauncher<Piece>, gpu::MuonTilesLauncher<Piece>>::type Launcher;

public:
    template <class Data>
    Muon(Data& data, const std::vector<Polynomial>& polynomials)
        : adam_(data), muon_(data), polynomials_(polynomials) {
        if (polynomials_.size() > gpu::most_iterations) throw std::runtime_error("too many iterations of Muon");
    }

    // As cpu/optimizer.h has it.
    void step(const AdamInputs& in, const AdamOutputs& out, const float* average, float* new_average,
              int64_t parameters) const {
        gpu::MuonStep step{in, out, average, new_average, adam_, muon_, parameters, gpu::GridBarrier::create()};
        step.iterations = int(polynomials_.size());
        std::copy(polynomials_.begin(), polynomials_.end(), step.polynomials);
        Launcher::launch(step);
    }

private:
    const AdamNumbers adam_;
    const MuonNumbers muon_;
    const std::vector<Polynomial> polynomials_;
};

}  // namespace
}  // namespace siren

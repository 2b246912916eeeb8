// What Jittor's generated code calls: the kernels of cpu/siren.h on flat parameters, and those of
// cpu/muon.h and cpu/optimizer.h.
//
// Parameters and their gradient are one array each: weight and bias of the first layer, weight and
// bias of the second, and so on.
#pragma once

#include <vector>

#include "cpu/optimizer.h"
#include "cpu/siren.h"
#include "numbers.h"

namespace siren {

// Addresses of the layers inside a flat array of float or const float.
template <class Float>
struct Layers {
    std::vector<Float*> weights, biases;

    Layers(Float* flat, int width, int hidden_layers, int channels) {
        int inputs = 2;
        for (int layer = 0; layer < hidden_layers + 2; ++layer) {
            const int outputs = layer <= hidden_layers ? width : channels;
            weights.push_back(flat);
            flat += size_t(outputs) * inputs;
            biases.push_back(flat);
            flat += outputs;
            inputs = outputs;
        }
    }
};

struct Call : Numbers {
    using Numbers::Numbers;

    template <class Work>
    void with_network(const float* parameters, const Work& work) const {
        const Layers<const float> layers(parameters, width, hidden_layers, channels);
        work(Network{width, hidden_layers, channels, omega, layers.weights.data(),
                     layers.biases.data()});
    }

    void streams(const float* parameters, const float* coordinates, int64_t n,
                 float* output) const {
        with_network(parameters, [&](const Network& net) {
            forward(net, coordinates, n, order, scale, output);
        });
    }

    void product(const float* parameters, const float* coordinates, const float* cotangent,
                 int64_t n, float* gradient) const {
        const Layers<float> layers(gradient, width, hidden_layers, channels);
        with_network(parameters, [&](const Network& net) {
            backward(net, coordinates, cotangent, n, order, scale,
                     {layers.weights.data(), layers.biases.data()});
        });
    }

    void loss(const float* parameters, const float* coordinates, const float* target,
              int64_t n, double weight, float* loss, float* gradient) const {
        const Layers<float> layers(gradient, width, hidden_layers, channels);
        with_network(parameters, [&](const Network& net) {
            *loss = float(squared_error(net, coordinates, target, n, order, scale, weight,
                                        {layers.weights.data(), layers.biases.data()}));
        });
    }
};

}  // namespace siren

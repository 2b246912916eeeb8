// The numbers that jt.code carries along: the network's shape, and which derivatives are wanted.
#pragma once

namespace siren {

struct Numbers {
    int width, hidden_layers, channels, order;
    float omega, scale[2];

    template <class Data>
    explicit Numbers(Data& data)
        : width(int(data["width"])),
          hidden_layers(int(data["hidden_layers"])),
          channels(int(data["channels"])),
          order(int(data["order"])),
          omega(float(data["omega_0"])),
          scale{float(data["scale_row"]), float(data["scale_column"])} {}
};

}  // namespace siren

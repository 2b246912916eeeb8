import jittor as jt
import numpy as np
import pytest
from numpy_siren import relative_error

from siren.engine.trial import orthogonalized
from siren.network import Siren
from siren.training.optimizer import Adam, Muon, constant, cosine, linear


def test_adam_is_the_published_algorithm(engine):
    """Against Algorithm 1 of the paper in float64."""
    rng = np.random.default_rng(0)
    start = [rng.normal(size=shape) for shape in ((5, 3), (1,), (70_001,))]
    parameters = [jt.array(p.astype(np.float32)) for p in start]
    optimizer = Adam(parameters, lr=0.01, engine=engine)
    theta, m, v = start, [0 * p for p in start], [0 * p for p in start]
    for t in range(1, 30):
        gradients = [rng.normal(size=p.shape) * 10.0 ** rng.integers(-6, 2) for p in start]
        optimizer.step([jt.array(g.astype(np.float32)) for g in gradients])
        jt.sync(parameters)
        for i, g in enumerate(gradients):
            m[i] = 0.9 * m[i] + 0.1 * g
            v[i] = 0.999 * v[i] + 0.001 * g**2
            m_hat, v_hat = m[i] / (1 - 0.9**t), v[i] / (1 - 0.999**t)
            theta[i] = theta[i] - 0.01 * m_hat / (np.sqrt(v_hat) + 1e-8)
    for ours, expected in zip(parameters, theta):
        np.testing.assert_allclose(ours.numpy(), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("size", [0.0, 1e-44, 1e-30, 1e-22, 1e-19, 1e-12])
def test_gradients_whose_square_is_no_normal_number_do_no_harm(engine, size):
    gradient = np.full(100, size, np.float32)
    parameters = jt.zeros((100,))
    Adam([parameters], lr=1.0, engine=engine).step([jt.array(gradient)])
    expected = -gradient.astype(np.float64) / (gradient + 1e-8)
    np.testing.assert_allclose(parameters.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("inputs", "width", "layers", "channels"),
    [(2, 24, 2, 1), (2, 37, 1, 3), (2, 130, 3, 1), (1, 16, 2, 2), (3, 16, 2, 2), (2, 8, 0, 1)],
)
def test_muon_is_orthogonalised_nesterov_momentum_and_adam_on_the_rest(
    engine, inputs, width, layers, channels
):
    """Three steps against float64 NumPy."""
    rng = np.random.default_rng(2)
    network = Siren(channels, inputs, width, layers)
    start = network.flat.numpy().astype(np.float64)
    hidden = [layer.weight.shape == (width, width) for layer in network.split(start)]
    assert sum(hidden) == layers
    muon = Muon(network, engine, lr=0.02, adam_lr=0.003)
    adam_alone = jt.array(start.astype(np.float32))
    adam = Adam([adam_alone], 0.003, betas=(0.8, 0.99), engine=engine)
    expected = [layer.weight.copy() for layer in network.split(start)]
    momentum = [np.zeros_like(weight) for weight in expected]
    for factor in (1.0, 0.5, 0.25):
        gradient = rng.normal(size=start.shape)
        variable = jt.array(gradient.astype(np.float32))
        muon.step([variable], factor)
        adam.step([variable], factor)
        for i, layer in enumerate(network.split(gradient)):
            momentum[i] = 0.9 * momentum[i] + layer.weight
            if hidden[i]:
                (direction,) = orthogonalized((0.9 * momentum[i] + layer.weight)[None])
                expected[i] = expected[i] - factor * 0.02 * direction
    ours, others = network.split(network.flat.numpy()), network.split(adam_alone.numpy())
    for i, (layer, other) in enumerate(zip(ours, others)):
        np.testing.assert_allclose(layer.bias, other.bias, rtol=1e-6, atol=1e-7)
        if hidden[i]:
            assert relative_error(layer.weight, expected[i]) < 1e-4
        else:
            np.testing.assert_allclose(layer.weight, other.weight, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", ["adam", "muon"])
def test_a_restored_optimizer_goes_on_bit_for_bit(engine, kind):
    def make():
        network = Siren(hidden_features=40, hidden_layers=2)
        if kind == "muon":
            return network, Muon(network, engine, 0.01, 0.001)
        return network, Adam([network.flat], 0.001, engine=engine)

    rng = np.random.default_rng(0)
    network, optimizer = make()
    gradients = [rng.normal(size=network.flat.shape).astype(np.float32) for _ in range(6)]
    for gradient in gradients[:3]:
        optimizer.step([jt.array(gradient)], 0.7)
    resumed, again = make()
    resumed.flat.update(jt.array(network.flat.numpy()))
    again.n_step = optimizer.n_step
    for one, other in zip(optimizer.vars(), again.vars()):
        other.update(jt.array(one.numpy()))
    for gradient in gradients[3:]:
        optimizer.step([jt.array(gradient)], 0.5)
        again.step([jt.array(gradient)], 0.5)
    assert (network.flat.numpy() == resumed.flat.numpy()).all()
    for one, other in zip(optimizer.vars(), again.vars()):
        assert (one.numpy() == other.numpy()).all()


def test_a_gradient_of_another_shape_is_refused(engine):
    network = Siren(hidden_features=8)
    for optimizer in (Adam([network.flat], 0.1, engine=engine), Muon(network, engine, 0.1, 0.1)):
        with pytest.raises(ValueError, match="gradient must be"):
            optimizer.step([network.flat[1:]])


def test_schedules():
    assert [constant(x) for x in (0, 0.5, 1)] == [1, 1, 1]
    assert [linear(x) for x in (0, 0.25, 1)] == [1, 0.75, 0]
    assert [cosine(x) for x in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])

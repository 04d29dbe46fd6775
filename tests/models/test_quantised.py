"""Layers in 16, in 8 and in 4 bits: truly small, close to the originals, and passing gradients."""

import logging

import pytest
import torch
from decoded import NAMES, NF4, layer_of, linears, rows, value, with_values
from small_rounds import CPU, proxy, same
from tiny_models import tiny
from torch import nn

from leff.errors import ModelError
from leff.models import blocks, capture, run_blocks
from leff.models.quantised import GROUP_SCALE, SCALE, install, quantised, rebuilt, unpacked
from leff.models.scratch import Scratch
from leff.wire.tensors import pack, unpack


@pytest.mark.parametrize("name", NAMES)
def test_16_bits_are_the_nearest_of_bfloat16(name):
    """8 significant bits: within 2⁻⁹ of the value, which is half a step."""
    layer = layer_of(name)
    tensors = quantised(layer, 16)
    assert tensors.keys() == layer.state_dict().keys()
    for path, linear in linears(layer).items():
        found, weight = tensors[f"{path}.weight"], rows(linear).detach()
        assert found.dtype == torch.bfloat16 and found.is_contiguous()
        assert ((found.float() - weight).abs() <= 2**-8 * weight.abs()).all()
        assert ((found.float() - weight).abs() / weight.abs()).mean() < 2**-9


@pytest.mark.parametrize("name", NAMES)
def test_8_bits_are_within_half_a_step_of_their_row(name):
    layer = layer_of(name)
    tensors = quantised(layer, 8)
    assert len(linears(layer)) >= 4
    for path, linear in linears(layer).items():
        codes, maxima = tensors[f"{path}.weight"], tensors[f"{path}.{SCALE}"]
        weight = rows(linear).detach()
        assert codes.dtype == torch.int8 and codes.shape == weight.shape
        torch.testing.assert_close(maxima, weight.abs().amax(1))
        error = (codes * (maxima / 127)[:, None] - weight).abs()
        assert (error <= (maxima / 127)[:, None] * 0.501).all()


@pytest.mark.parametrize("name", NAMES)
def test_4_bits_are_within_half_a_step_of_their_group(name):
    layer = layer_of(name)
    tensors = quantised(layer, 4)
    for path, linear in linears(layer).items():
        codes, maxima = tensors[f"{path}.weight"], tensors[f"{path}.{GROUP_SCALE}"]
        weight = rows(linear).detach()
        assert codes.dtype == torch.uint8 and codes.shape == (len(weight), weight.shape[1] // 2)
        groups = weight.reshape(-1, 64)
        torch.testing.assert_close(maxima, groups.abs().amax(1))
        scaled = groups / maxima[:, None]
        nearest = (scaled[..., None] - NF4).abs().amin(-1) * maxima[:, None]
        error = (value(tensors, path) - weight).abs().reshape(-1, 64)
        assert (error <= nearest + 1e-5 * maxima[:, None]).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bits", [16, 8, 4])
def test_linear_bytes(name, bits):
    layer = layer_of(name)
    tensors = quantised(layer, bits)
    weights = sum(linear.weight.numel() for linear in linears(layer).values())
    own = [f"{n}.{key}" for n in linears(layer) for key in ("weight", SCALE, GROUP_SCALE)]
    after = sum(tensors[name].nbytes for name in own if name in tensors)
    outputs = sum(rows(linear).shape[0] for linear in linears(layer).values())
    assert after == {16: 2 * weights, 8: weights + 4 * outputs, 4: 0.5625 * weights}[bits]
    # and in what is sent
    saved = len(pack(dict(layer.state_dict()))) - len(pack(tensors))
    assert saved == pytest.approx(4 * weights - after, abs=200 + 120 * len(linears(layer)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bits", [32, 16, 8, 4])
def test_the_rest_of_the_layer_is_as_it_was(name, bits):
    layer = layer_of(name)
    weights = {f"{path}.weight" for path in linears(layer)} if bits < 32 else set()
    tensors = quantised(layer, bits)
    for key, tensor in layer.state_dict().items():
        assert key in weights or torch.equal(tensors[key], tensor)
    assert bits < 32 or tensors.keys() == layer.state_dict().keys()
    assert same(dict(layer.state_dict()), dict(layer_of(name).state_dict()))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("bits", "most"), [(32, 0), (16, 0.006), (8, 0.03), (4, 0.3)])
def test_a_rebuilt_layer_is_close_to_the_original(name, bits, most):
    model = tiny(name, "classification")
    trace = capture(model, proxy("classification")[0])
    layer = layer_of(name)
    again = rebuilt(layer, quantised(layer, bits))
    found, _ = run_blocks([again], trace.hidden[1], trace, [1])
    wanted = trace.hidden[2]
    error = float(((found - wanted).norm() / wanted.norm()).detach())
    assert error == 0 if bits == 32 else 0 < error < most
    assert not any(parameter.requires_grad for parameter in again.parameters())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bits", [16, 8, 4])
def test_reload_through_bytes_is_exact(name, bits):
    tensors = quantised(layer_of(name), bits)
    back = unpack(pack(tensors))
    assert same(back, tensors)
    one, two = layer_of(name), layer_of(name)
    left = install(one, tensors, CPU)
    install(two, back, CPU)
    assert not {n for n in left if n.rpartition(".")[0] in linears(layer_of(name))}
    for path in linears(layer_of(name)):
        linear = one.get_submodule(path)
        x = torch.randn(2, 5, linear.in_features)
        assert torch.equal(linear(x), two.get_submodule(path)(x))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bits", [16, 8, 4])
def test_gradient_flows_through_frozen_layers(name, bits):
    """Outputs and gradients equal those through the dequantised weights."""
    model = tiny(name, "classification")
    trace = capture(model, proxy("classification")[0])
    tensors = quantised(blocks(model)[2], bits)
    plain = with_values(layer_of(name, 2), tensors)
    small = rebuilt(layer_of(name, 2), tensors)
    outputs, gradients = [], []
    for layer in (plain, small):
        hidden = trace.hidden[2].clone().requires_grad_()
        out, _ = run_blocks([layer], hidden, trace, [2])
        out.square().sum().backward()
        outputs.append(out)
        gradients.append(hidden.grad)
    assert (gradients[1] != 0).any()
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("bits", [16, 8, 4])
@pytest.mark.parametrize("inputs", [2, 32, 48, 64, 96, 98, 384])
@pytest.mark.parametrize("train", [True, False])
def test_products_are_exact_whatever_the_number_of_inputs_and_the_mode(bits, inputs, train):
    """bitsandbytes' own modules are wrong where groups cross rows, and round in eval mode."""
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(inputs, 5))
    tensors = quantised(layer, bits)
    weight = value(tensors, "0")
    scales = tensors.get({16: "", 8: f"0.{SCALE}", 4: f"0.{GROUP_SCALE}"}[bits])
    torch.testing.assert_close(unpacked(tensors["0.weight"], scales).float(), weight)
    hidden = torch.randn(2, 3, inputs)
    with torch.no_grad():
        expected = nn.functional.linear(hidden, weight, layer[0].bias)
        found = rebuilt(layer, tensors).train(train)(hidden)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bits", [16, 8, 4])
def test_a_weight_in_another_type_is_rounded_once(bits):
    torch.manual_seed(0)
    tensors = quantised(nn.Sequential(nn.Linear(64, 600)), bits)
    key = {16: "", 8: f"0.{SCALE}", 4: f"0.{GROUP_SCALE}"}[bits]
    codes, scales = tensors["0.weight"], tensors.get(key)
    wide, scratch = unpacked(codes, scales).float(), Scratch()
    assert torch.equal(unpacked(codes, scales, torch.bfloat16, scratch), wide.bfloat16())
    assert torch.equal(unpacked(codes, scales, torch.float32, scratch), wide)


@pytest.mark.parametrize("bits", [8, 4])
def test_zeros_stay_zero(bits):
    linear = nn.Linear(64, 2, bias=False)
    with torch.no_grad():
        linear.weight[0] = 0
    layer = nn.Sequential(linear)
    assert rebuilt(layer, quantised(layer, bits))(torch.ones(1, 64))[0, 0] == 0


def test_what_cannot_be_quantised_is_an_error_with_a_remedy():
    with pytest.raises(ModelError, match=r"no linear module .* context.bits = 32"):
        quantised(nn.Sequential(nn.LayerNorm(4)), 8)
    with pytest.raises(ModelError, match=r"0 has 5 inputs.* context.bits = 8"):
        quantised(nn.Sequential(nn.Linear(5, 4)), 4)


def test_the_library_logs_nothing_that_a_user_need_not_know():
    assert logging.getLogger("bitsandbytes.backends.cpu.ops").getEffectiveLevel() >= logging.ERROR

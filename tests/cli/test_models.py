"""convert and forward against the golden files."""
import json

import numpy as np
import pytest

from conftest import (GOLDEN, hash_parameter, hash_values, read_safetensors, run,
                      write_safetensors)


@pytest.mark.parametrize("source,keys,factor", [
    ("prior.pt", [], 1), ("prior.pt", ["--key", "flat"], 1), ("davi_ema.pt", [], 1),
    ("davi_ema.pt", ["--key", "ema"], 1), ("davi_ema.pt", ["--key", "implicit"], 0.5)])
def test_convert_gives_the_weights_exactly(source, keys, factor, prior_file, tmp_path):
    shapes, config, seed = prior_file
    out = tmp_path / "out.safetensors"
    run("convert", *keys, "--arch", json.dumps(config), GOLDEN / source, out)
    tensors, meta = read_safetensors(out)
    assert set(tensors) == set(shapes)
    for name, shape in shapes.items():
        want = hash_parameter(name, seed, shape) * np.float32(factor)
        assert np.array_equal(tensors[name], want), name
    assert json.loads(meta["david.role"]) == "prior"
    assert "sha256" in meta["david.provenance"]


def test_convert_to_half_rounds_to_nearest(prior_file, tmp_path):
    _, config, _ = prior_file
    out = tmp_path / "out.safetensors"
    run("convert", "--dtype", "f16", "--arch", json.dumps(config), GOLDEN / "prior.pt", out)
    got, _ = read_safetensors(out)
    want, _ = read_safetensors(GOLDEN / "prior.f16.safetensors")
    for name in want:
        assert np.array_equal(got[name], want[name]), name


def test_convert_makes_a_restorer_of_named_tasks(prior_file, tmp_path):
    _, config, _ = prior_file
    out = tmp_path / "out.safetensors"
    run("convert", "--task", "denoise,sr4:0.1:0.02", "--arch", json.dumps(config),
        GOLDEN / "prior.pt", out)
    facts = json.loads(run("inspect", "--json", out).stdout)
    assert facts["role"] == "restorer"
    assert facts["tasks"]["sr4"] == {"sigma": 0.1, "h": 0.02, "label": None}
    assert facts["tasks"]["denoise"]["sigma"] == 0.2


def test_convert_refuses_what_is_no_network_and_writes_nothing(prior_file, tmp_path):
    _, config, _ = prior_file
    out = tmp_path / "out.safetensors"
    for source in ("exotic.pt", "exotic.safetensors", "davi_ema.pt"):
        keys = ["--key", "flat"] if source == "davi_ema.pt" else []
        done = run("convert", *keys, "--arch", json.dumps(config), GOLDEN / source, out, code=1)
        assert done.stderr.count(b"\n") == 1
        assert not out.exists()
    run("convert", GOLDEN / "prior.pt", out, code=2)  # a .pt holds no architecture
    other = dict(config, num_channels=64)
    assert b"tensor" in run("convert", "--arch", json.dumps(other), GOLDEN / "prior.pt", out,
                            code=1).stderr


def test_forward_reproduces_the_golden_network(tmp_path):
    golden, meta = read_safetensors(GOLDEN / "unet_adm.safetensors")
    config, seed = json.loads(meta["david.config"]), int(meta["seed"])
    shapes = parameter_shapes(config)
    assert sum(int(np.prod(s)) for s in shapes.values()) == int(meta["params"])
    model, inputs, out = (tmp_path / n for n in ("m.safetensors", "i.safetensors", "o.safetensors"))
    write_safetensors(model, {n: hash_parameter(n, seed, s) for n, s in shapes.items()},
                      {"david.config": json.dumps(config)})
    t = golden["t"]
    side = config["image_size"]
    write_safetensors(inputs, {"x": hash_values("x", seed, (len(t), 3, side, side)), "t": t}, {})
    run("forward", "--dtype", "f32", "--model", model, "--in", inputs, "--out", out)
    y = read_safetensors(out)[0]["y"]
    stride = int(meta["stride"])
    want = golden["y"]
    assert np.abs(y[:, :, ::stride, ::stride] - want).max() <= 1e-4 * np.abs(want).max()


@pytest.fixture
def told_network(tmp_path):
    """The network of golden/levers_cells2: six channels, with labels, sigma and level as inputs.
    Returns `forward`, which leaves inputs out or changes them."""
    golden, meta = read_safetensors(GOLDEN / "levers_cells2.safetensors")
    config, seed = json.loads(meta["david.config"]), int(meta["seed"])
    shapes = parameter_shapes(config)
    assert sum(int(np.prod(s)) for s in shapes.values()) == int(meta["params"])
    model, given, out = (tmp_path / n for n in ("m.safetensors", "i.safetensors", "o.safetensors"))
    write_safetensors(model, {n: hash_parameter(n, seed, s) for n, s in shapes.items()},
                      {"david.config": json.dumps(config)})
    side = config["image_size"]
    inputs = {"x": hash_values("x", seed, (2, 6, side, side)),
              **{name: golden[name] for name in ("t", "label", "sigma", "level")}}

    def forward(code=0, **changes):
        write_safetensors(given, {k: v for k, v in {**inputs, **changes}.items() if v is not None}, {})
        done = run("forward", "--dtype", "f32", "--model", model, "--in", given, "--out", out, code=code)
        return done.stderr.decode() if code else read_safetensors(out)[0]["y"]

    return forward, golden["y"]


def test_forward_takes_noise_labels_sigma_and_level(told_network):
    forward, want = told_network
    assert np.abs(forward() - want).max() <= 1e-4 * np.abs(want).max()
    for name in ("label", "sigma", "level"):
        assert np.abs(forward(**{name: np.zeros(2, np.float32)}) - want).max() > 1e-3 * np.abs(want).max(), name


@pytest.mark.parametrize("code,changes,words", [
    (2, {"label": None}, "label is missing; the network has 5 classes"),
    (2, {"sigma": None}, "sigma is missing; the network is told it"),
    (2, {"level": None}, "level is missing; the network is told it"),
    (2, {"x": np.zeros((2, 3, 16, 16), np.float32)}, "x has 3 channels; the network takes 6"),
    (2, {"label": np.float32([0, 5])}, "label = 5; the network has 5 classes"),
    (1, {"x": np.zeros((2, 4, 16, 16), np.float32)}, "a tensor x of"),
    (1, {"sigma": np.zeros(3, np.float32)}, "the tensor sigma is not [N]"),
    (1, {"level": np.float32([0, np.nan])}, "level[1] is not finite"),
    (1, {"t": None}, "a tensor t of [N] is needed")])
def test_forward_says_what_is_missing_or_wrong(told_network, code, changes, words):
    assert words in told_network[0](code=code, **changes)


def parameter_shapes(config):
    """Names and shapes of the network of engine/README.md sections 2 and 9, with scale and shift."""
    ch, shapes = config["num_channels"], {}
    widths = [ch * int(m) for m in config["channel_mult"].split(",")]
    rates = [config["image_size"] // int(r) for r in config["attention_resolutions"].split(",") if r]
    emb, patch = 4 * ch, config.get("patch", 1)

    def layer(name, *shape):
        shapes[name + ".weight"], shapes[name + ".bias"] = shape, shape[:1]

    def res(name, i, o):
        layer(name + ".in_layers.0", i)
        layer(name + ".in_layers.2", o, i, 3, 3)
        layer(name + ".emb_layers.1", 2 * o, emb)
        layer(name + ".out_layers.0", o)
        layer(name + ".out_layers.3", o, o, 3, 3)
        if i != o:
            layer(name + ".skip_connection", o, i, 1, 1)

    def attention(name, c):
        layer(name + ".norm", c)
        layer(name + ".qkv", 3 * c, c, 1)
        layer(name + ".proj_out", c, c, 1)

    def resample(name, part, c):
        if config["resblock_updown"]:
            res(name, c, c)
        else:
            layer(f"{name}.{part}", c, c, 3, 3)

    for told in ("time", "sigma", "level"):
        if told == "time" or config.get(told + "_cond"):
            layer(told + "_embed.0", emb, ch)
            layer(told + "_embed.2", emb, emb)
    if config.get("class_cond"):
        shapes["label_emb.weight"] = (config["num_classes"], emb)
    inputs = 6 if config.get("noise") == "channels" else 3
    layer("input_blocks.0.0", widths[0], inputs * patch**2, 3, 3)
    skips, c, block, rate = [widths[0]], widths[0], 1, patch
    for level, width in enumerate(widths):
        for _ in range(config["num_res_blocks"]):
            res(f"input_blocks.{block}.0", c, width)
            c = width
            if rate in rates:
                attention(f"input_blocks.{block}.1", c)
            skips.append(c)
            block += 1
        if level + 1 < len(widths):
            resample(f"input_blocks.{block}.0", "op", c)
            skips.append(c)
            block += 1
            rate *= 2
    res("middle_block.0", c, c)
    if config.get("middle_attention", True):
        attention("middle_block.1", c)
    res("middle_block.2", c, c)
    block = 0
    for level, width in reversed(list(enumerate(widths))):
        for i in range(config["num_res_blocks"] + 1):
            res(f"output_blocks.{block}.0", c + skips.pop(), width)
            c, part = width, 1
            if rate in rates:
                attention(f"output_blocks.{block}.1", c)
                part = 2
            if level and i == config["num_res_blocks"]:
                resample(f"output_blocks.{block}.{part}", "conv", c)
                rate //= 2
            block += 1
    layer("out.0", c)
    layer("out.2", (6 if config["learn_sigma"] else 3) * patch**2, c, 3, 3)
    return shapes

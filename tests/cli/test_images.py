"""restore, degrade, eval and bench on small images with a small model."""
import io
import json

import numpy as np
import pytest
from PIL import Image

from conftest import read_safetensors, run


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data) if isinstance(data, bytes) else data), np.float64)


def psnr(a, b):
    return 20 * np.log10(255 / np.sqrt(np.mean((a - b) ** 2)))


def test_a_seed_gives_the_same_bytes_on_every_way_out(restorer, photo, tmp_path):
    first, second = tmp_path / "1.png", tmp_path / "2.png"
    args = ["restore", "--model", restorer, "--task", "denoise", "--h", "1", "--seed"]
    facts = json.loads(run(*args, 7, "--json", photo, first).stdout)
    assert facts["seed"] == "7" and facts["h"] == 1 and facts["residual_rms"] > 0
    run(*args, 7, photo, second)
    piped = run(*args, 7, "-", "-", input=photo.read_bytes()).stdout
    assert first.read_bytes() == second.read_bytes() == piped
    run(*args, 8, photo, second)
    assert first.read_bytes() != second.read_bytes()


def test_a_seed_is_drawn_when_absent_and_told(restorer, photo, tmp_path):
    args = ["restore", "--json", "--model", restorer, "--task", "denoise", photo, tmp_path / "o.png"]
    seeds = {json.loads(run(*args).stdout)["seed"] for _ in range(2)}
    assert len(seeds) == 2


def test_sizes_formats_and_kinds_of_output(restorer, photo, tmp_path):
    jpeg, std = tmp_path / "o.jpg", tmp_path / "o.png"
    run("restore", "--model", restorer, "--task", "sr4", "--seed", 1, photo, jpeg)
    with Image.open(jpeg) as img:
        assert img.format == "JPEG" and img.size == (160, 144)
    facts = json.loads(run("restore", "--json", "--model", restorer, "--task", "denoise", "--output",
                           "std", "--samples", 2, "--seed", 1, photo, std).stdout)
    assert facts["samples"] == 2 and facts["std_scale"] > 0


def test_inpaint_needs_a_hole_and_takes_a_mask(restorer, photo, tmp_path):
    mask = np.zeros((36, 40), np.uint8)
    mask[10:20, 10:20] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    args = ["restore", "--model", restorer, "--task", "inpaint", "--seed", 1]
    run(*args, photo, tmp_path / "o.png", code=1)
    run(*args, "--mask", tmp_path / "m.png", photo, tmp_path / "o.png")
    assert pixels(tmp_path / "o.png").shape == (36, 40, 3)


def test_a_failure_leaves_no_output(restorer, photo, tmp_path):
    bad, out = tmp_path / "bad.png", tmp_path / "o.png"
    bad.write_bytes(photo.read_bytes()[:100])
    run("restore", "--model", restorer, "--task", "denoise", bad, out, code=1)
    run("restore", "--model", restorer, "--task", "deblur", photo, out, code=2)
    assert not out.exists()


def test_degrade_keeps_floats_or_clips_them(photo, tmp_path):
    floats, clipped = tmp_path / "y.safetensors", tmp_path / "y.png"
    for out in (floats, clipped):
        run("degrade", "--task", "denoise", "--sigma", "0.5", "--seed", 3, photo, out)
    tensors, meta = read_safetensors(floats)
    y = tensors["y"]
    assert y.shape == (1, 3, 36, 40) and np.abs(y).max() > 1
    assert (meta["task"], float(meta["sigma"]), meta["seed"]) == ("denoise", 0.5, "3")
    want = np.rint((y[0].transpose(1, 2, 0).astype(np.float64) + 1) * 127.5).clip(0, 255)
    assert np.array_equal(pixels(clipped), want)
    noise = y[0].transpose(1, 2, 0) - (pixels(photo) / 127.5 - 1)
    assert abs(noise.std() - 0.5) < 0.02 and abs(noise.mean()) < 0.03


def test_degrade_is_the_operator_of_the_task(photo, tmp_path):
    x = pixels(photo) / 127.5 - 1
    out = tmp_path / "y.safetensors"
    run("degrade", "--task", "sr4", "--sigma", "0", photo, out)
    want = x.reshape(9, 4, 10, 4, 3).mean((1, 3)).transpose(2, 0, 1)
    assert np.abs(read_safetensors(out)[0]["y"][0] - want).max() < 1e-5
    run("degrade", "--task", "colorize", "--sigma", "0", photo, out)
    want = x @ np.array([0.3333, 0.3334, 0.3333])
    assert np.abs(read_safetensors(out)[0]["y"][0, 0] - want).max() < 1e-5


def test_degrade_has_levels(photo, tmp_path):
    x = pixels(photo) / 127.5 - 1
    out, jpeg = tmp_path / "y.safetensors", tmp_path / "y.png"
    run("degrade", "--task", "sr2", "--sigma", "0", photo, out)
    y, meta = read_safetensors(out)
    assert np.abs(y["y"][0] - x.reshape(18, 2, 20, 2, 3).mean((1, 3)).transpose(2, 0, 1)).max() < 1e-5 and "level" not in meta
    for std in (1.0, 2.0, 4.0):
        taps = np.exp(-0.5 * (np.arange(-30, 31) / std) ** 2)
        taps /= taps.sum()
        want = np.apply_along_axis(lambda row: np.convolve(row, taps)[30:-30], 0, x)
        want = np.apply_along_axis(lambda row: np.convolve(row, taps)[30:-30], 1, want)
        run("degrade", "--task", "deblur", "--sigma", "0", "--level", std, photo, out)
        y, meta = read_safetensors(out)
        assert np.abs(y["y"][0].transpose(1, 2, 0) - want).max() < 1e-5 and float(meta["level"]) == std
    for quality in (10, 37, 80):
        run("degrade", "--task", "dejpeg", "--level", quality, photo, jpeg)
        file = io.BytesIO()
        Image.open(photo).save(file, "JPEG", quality=quality, subsampling=2)
        assert np.array_equal(pixels(jpeg), pixels(file.getvalue()))
    for bad in ("0", "0.1", "8", "x"):
        run("degrade", "--task", "deblur", "--level", bad, photo, jpeg, code=2)
    assert b"no level" in run("degrade", "--task", "denoise", "--level", "3", photo, jpeg, code=2).stderr


def test_sigma_and_level_that_a_model_was_not_trained_for_are_refused(photo, tmp_path):
    out = tmp_path / "o.png"
    for option, value, word in (("--level", "2", b"3 alone"), ("--sigma", "0.2", b"0.05 alone"), ("--sigma", "0", b"more than 0"),
                                ("--level", "0", b"more than 0")):
        assert word in run("restore", "--task", "deblur", option, value, photo, out, code=2).stderr
    facts = json.loads(run("restore", "--task", "deblur", "--level", "3", "--sigma", "0.05", "--json", photo, out).stdout)
    assert facts["level"] == 3 and facts["sigma"] == facts["residual_expected"] == 0.05
    (tmp_path / "data").mkdir()
    Image.open(photo).save(tmp_path / "data/p.png")
    facts = json.loads(run("eval", "--task", "deblur", "--level", "1.5", "--data", tmp_path / "data", "--json").stdout)
    assert facts["level"] == 1.5 and facts["sigma"] == 0.05


def test_a_float_measurement_restores(restorer, photo, tmp_path):
    y, out = tmp_path / "y.safetensors", tmp_path / "o.png"
    run("degrade", "--task", "denoise", "--sigma", "0", "--seed", 1, photo, y)
    run("restore", "--model", restorer, "--task", "denoise", "--h", 0, "--seed", 1, y, out)
    want = np.tanh(pixels(photo) / 127.5 - 1)  # the network's last convolution is zero
    assert np.abs(pixels(out) - (want + 1) * 127.5).max() <= 1


def test_the_shipped_model_improves_a_noisy_image(photo, tmp_path):
    noisy, out = tmp_path / "y.png", tmp_path / "o.png"
    run("degrade", "--task", "denoise", "--seed", 5, photo, noisy)
    run("restore", "--task", "denoise", "--seed", 5, "--threads", 1, noisy, out)
    assert psnr(pixels(out), pixels(photo)) > psnr(pixels(noisy), pixels(photo)) + 3


def ssim(a, b):
    """The definition of david eval --help, on whole arrays."""
    w = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    w = np.outer(w, w) / w.sum() ** 2

    def blur(v):
        windows = np.lib.stride_tricks.sliding_window_view(v, (11, 11), axis=(0, 1))
        return np.einsum("yxcij,ij->yxc", windows, w)

    ma, mb = blur(a), blur(b)
    va, vb, cov = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
    c1, c2 = 0.02**2, 0.06**2
    return np.mean((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))


def test_eval_scores_are_those_of_their_definitions(restorer, photo, tmp_path):
    data, kept = tmp_path / "data", tmp_path / "kept"
    data.mkdir()
    rgb = pixels(photo).astype(np.uint8)
    for name in ("p10.png", "p2.png"):
        Image.fromarray(rgb).save(data / name)
    facts = json.loads(run("eval", "--task", "denoise", "--model", restorer, "--data", data, "--out",
                           kept, "--json", "--seed", 4).stdout)
    assert [i["name"] for i in facts["images"]] == ["p2.png", "p10.png"]
    assert facts["count"] == 2 and facts["sigma"] == 0.2
    first = facts["images"][0]
    a, b = (pixels(kept / kind / "p2.png.png") / 127.5 - 1 for kind in ("truth", "restored"))
    assert first["psnr"] == pytest.approx(20 * np.log10(2 / np.sqrt(np.mean((a - b) ** 2))), abs=1e-4)
    assert first["ssim"] == pytest.approx(ssim(a, b), abs=1e-5)
    assert first["input_psnr"] == pytest.approx(20 * np.log10(2 / 0.2), abs=0.5)
    assert first["ms_per_image"] > 0 and first["residual_rms"] > 0
    mean = np.mean([i["psnr"] for i in facts["images"]])
    assert facts["mean"]["psnr"] == pytest.approx(mean, abs=1e-5)


def test_bench_tells_what_it_measured(prior_file):
    _, config, _ = prior_file
    facts = json.loads(run("bench", "--arch", json.dumps(config), "--size", "16x24", "--batch", "1,2",
                           "--runs", 3, "--threads", 1, "--json").stdout)
    assert (facts["threads"], facts["height"], facts["width"]) == (1, 16, 24)
    assert [r["batch"] for r in facts["results"]] == [1, 2]
    for r in facts["results"]:
        assert r["ms_per_image"] > 0 and r["flop_per_image"] > 0 and r["peak_bytes"] > 0
        assert r["images_per_second"] == pytest.approx(1000 / r["ms_per_image"], rel=1e-4)
        assert sum(r["shares"].values()) == pytest.approx(1, abs=0.01)


def test_bench_of_training_tells_where_the_time_goes(prior_file):
    _, config, _ = prior_file
    facts = json.loads(run("bench", "--train", "--arch", json.dumps(config), "--size", "16x16", "--batch", "1,2",
                           "--runs", 1, "--threads", 1, "--dtype", "f32", "--json").stdout)
    assert [(r["kind"], r["batch"]) for r in facts["results"]] == [(k, n) for n in (1, 2) for k in ("prior", "davi")]
    for r in facts["results"]:
        assert r["images_per_second"] == pytest.approx(1000 / r["ms_per_image"], rel=1e-4) and r["peak_bytes"] > 0
        assert sum(r["shares"].values()) == pytest.approx(1, abs=0.01)
        assert {"CONV", "CONV backward", "GROUP_NORM backward", "update", "losses"} <= set(r["shares"])
        assert ("BATCH_NORM backward" in r["shares"]) == (r["kind"] == "davi")

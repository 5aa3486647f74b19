"""Configurations of other quantisers: every key acts, is noted or is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from whet.cli import exits
from whet.cli.main import run_command
from whet.compat import ascend, converter_quantisation
from whet.compat.amct import is_amct, read_amct
from whet.compat.translation import Noted, Refused, Used
from whet.errors import OptionError
from whet.quantize.config import config_from_dict
from whet.tests.small_models import write_layer

LINE = "--fmk=ONNX --modelFile=m.onnx --outputFile=m --configFile="
FULL = "[common_quant_param]\nquant_type=FULL_QUANT\n"
DATA = "[data_preprocess_param]\ncalibrate_path=x:data\n"


def quantised(tmp_path: Path, text: str) -> list[str]:
    """Return the options of ``whet quantize`` that a configuration stands for."""
    (tmp_path / "c.cfg").write_text(text)
    meant = ascend.converter_lite(f"{LINE}{tmp_path / 'c.cfg'}".split())
    assert meant.command == ["compile", "m.quantized.onnx", "-o", "m.whet"]
    assert meant.before[:4] == ("quantize", "m.onnx", "-o", "m.quantized.onnx")
    return list(meant.before[4:])


def test_full_quantisation(tmp_path: Path) -> None:
    text = (
        "[common_quant_param]\nquant_type=FULL_QUANT\nbit_num=8\nskip_quant_node=a,b\n"
        "debug_info_save_path=out\nmin_quant_weight_size=0\n[full_quant_param]\n"
        "activation_quant_method=KL\nbias_correction=true\nper_channel=false\nsmooth_alpha=0.5\n"
        "target_device=ASCEND\n[data_preprocess_param]\ncalibrate_path=x:data\ncalibrate_size=200\n"
        "input_type=IMAGE\nimage_to_format=BGR\nnormalize_mean=[127.5, 127.5, 127.5]\n"
        "normalize_std=[2,2,2]\nresize_width=256\nresize_height=256\ncenter_crop_width=224\n"
        "center_crop_height=224\nresize_method=LINEAR\n"
    )
    assert quantised(tmp_path, text) == [
        "--calibrator", "entropy", "--bias-correction", "--per-tensor", "--smooth", "0.5",
        "--calibration", "data", "--samples", "200", "--image",
        "scale=1,mean=127.5/127.5/127.5,std=2/2/2,order=bgr,resize=256", "--skip", "a",
        "--skip", "b", "--report", "out/quantize.json",
    ]  # fmt: skip


def test_weights_alone(tmp_path: Path) -> None:
    text = "[common_quant_param]\nquant_type=WEIGHT_QUANT\nbit_num=4\n"
    assert quantised(tmp_path, text) == ["--mode", "weights", "--bits", "4"]
    gptq = f"{text}[weight_quant_param]\nquant_strategy=GPTQ\nper_channel=true\n{DATA}"
    assert quantised(tmp_path, gptq)[4:] == ["--method", "gptq", "--calibration", "data"]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[common_quant_param]\nquant_type=DYNAMIC_QUANT\n", "FULL_QUANT"),
        (f"{FULL}", "calibration data"),
        (f"{FULL}bit_num=7\n{DATA}", "give 8"),
        (f"{FULL}bit_nums=8\n{DATA}", "bit_num"),
        (f"{FULL}{DATA}[full_quant_param]\nactivation_quant_method=BEST\n", "REMOVAL_OUTLIER"),
        (f"{FULL}{DATA}[full_quant_param]\nper_channel=yes\n", "true or false"),
        (f"{FULL}[data_preprocess_param]\ncalibrate_path=x:a,y:b\n", ".npz"),
        (f"{FULL}{DATA}input_type=BIN\n", ".npy"),
        (f"{FULL}{DATA}input_type=IMAGE\nimage_to_format=GRAY\n", "RGB"),
        (f"{FULL}{DATA}input_type=IMAGE\nresize_width=9\ncenter_crop_width=8\n", "one size"),
        ("[common_quant_param]\nquant_type=WEIGHT_QUANT\nbit_num=0\n", "4 or 8"),
    ],
)
def test_sections_that_are_refused(tmp_path: Path, text: str, hint: str) -> None:
    with pytest.raises(OptionError) as caught:
        quantised(tmp_path, text)
    assert hint in str(caught.value)


def test_every_key_acts_or_says_why_not(tmp_path: Path) -> None:
    for section, rules in converter_quantisation.SECTIONS.items():
        for key, rule in rules.items():
            if isinstance(rule, Used):
                continue
            (tmp_path / "c.cfg").write_text(f"{FULL}{DATA}[{section}]\n{key}=1\n".replace(
                f"{FULL}{DATA}[common_quant_param]\n", f"{DATA}{FULL}").replace(
                f"{DATA}[data_preprocess_param]\n", DATA))  # fmt: skip
            arguments = f"{LINE}{tmp_path / 'c.cfg'}".split()
            if isinstance(rule, Refused):
                with pytest.raises(OptionError, match=f"{key} is not available"):
                    ascend.converter_lite(arguments)
            else:
                assert [n for n in ascend.converter_lite(arguments).notes if n.startswith(key)]


# -- AMCT ----------------------------------------------------------------------------------------

CFG = """
batch_num : 2          # of batches
activation_offset : true
joint_quant : false
do_fusion : true
skip_layers : "head"
skip_layers : "stem"
skip_layer_types : "Gemm"
conv_calibration_config : {
  arq_quantize : { channel_wise : true  num_bits : 8 }
  ifmr_quantize : { search_range_start : 0.7 search_range_end : 1.3 search_step : 0.01
                    max_percentile : 0.999 min_percentile : 0.999 asymmetric : true }
}
fc_calibration_config {
  arq_quantize { channel_wise: false }
}
"""


def test_simplified_configuration(tmp_path: Path) -> None:
    path = tmp_path / "amct.cfg"
    path.write_text(CFG)
    found = read_amct(path)
    assert found.values == {
        "samples": 16, "activations_symmetric": False, "layers": {"head": "float", "stem": "float"},
        "skip_ops": ("Gemm",), "rounding": "nearest", "calibrator": "scale_search",
        "percentile": 99.9,
    }  # fmt: skip
    assert [note.partition(":")[0] for note in found.notes] == [
        "joint_quant", "search_step", "channel_wise",
    ]  # fmt: skip
    config_from_dict(found.values)


def layer(**changes: object) -> dict[str, object]:
    """Return the entry of a layer in the JSON form."""
    return {
        "quant_enable": True, "dmq_balancer_param": 0.5,
        "activation_quant_params": {"num_bits": 8, "act_algo": "hfmg", "num_of_bins": 4096,
                                    "asymmetric": False},
        "weight_quant_params": {"num_bits": 8, "wts_algo": "ada_quantize", "channel_wise": True,
                                "num_iteration": 10000},
        **changes,
    }  # fmt: skip


def test_json_configuration(tmp_path: Path) -> None:
    path = tmp_path / "amct.json"
    values = {
        "version": 1, "batch_num": 1, "activation_offset": False, "do_fusion": True,
        "skip_fusion_layers": [], "conv1": layer(), "fc": layer(quant_enable=False),
    }  # fmt: skip
    path.write_text(json.dumps(values))
    assert is_amct(path)
    assert read_amct(path).values == {
        "samples": 8, "activations_symmetric": True, "smooth": 0.5, "calibrator": "mse",
        "rounding": "adaptive", "layers": {"fc": "float"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("do_fusion: false", "batch norms"),
        ("batch_nums: 1", "batch_num"),
        ("batch_num: many", "type"),
        ("common_config { arq_quantize { num_bits: 4 } }", "--bits 4"),
        ("common_config { ifmr_quantize { search_range_start: 0.5 } }", "0.7"),
        ("common_config { ifmr_quantize { } hfmg_quantize { } }", "one value"),
        ("nuq_config { }", "equal steps"),
        ("common_config { ", "brace"),
        ("{", "key: value"),
        ("activation_offset: true\ncommon_config { hfmg_quantize { asymmetric: false } }", "one"),
    ],
)
def test_what_amct_asks_and_there_is_not(tmp_path: Path, text: str, hint: str) -> None:
    (tmp_path / "a.cfg").write_text(text)
    with pytest.raises(OptionError) as caught:
        read_amct(tmp_path / "a.cfg")
    assert hint in str(caught.value) and "a.cfg" in str(caught.value)


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    for content in (b"\xff\xfe", b""):
        (tmp_path / "a.json").write_bytes(content)
        assert not is_amct(tmp_path / "a.json")
    (tmp_path / "a.cfg").write_bytes(b"\xff\xfe")
    with pytest.raises(OptionError, match="cannot read"):
        read_amct(tmp_path / "a.cfg")
    with pytest.raises(OptionError, match="cannot read"):
        read_amct(tmp_path / "missing.cfg")


def test_atc_quantises_first(tmp_path: Path) -> None:
    path = tmp_path / "c.cfg"
    path.write_text(
        "calibration:\n{\n  input_data_dir: data\n  config_file: a.cfg\n  log: info\n}\n"
    )
    line = f"--model=m.onnx --framework=5 --output=m --compression_optimize_conf={path}"
    meant = ascend.atc(line.split())
    assert list(meant.before) == [
        "quantize", "m.onnx", "-o", "m.quantized.onnx", "--calibration", "data",
        "--config", "a.cfg",
    ]  # fmt: skip
    assert meant.command[:2] == ["compile", "m.quantized.onnx"] and meant.notes[0][:3] == "log"
    for text, hint in (
        ("calibration { input_data_dir: a.bin,b.bin }", ".npy"),
        ("calibration { input_dir: a }", "input_data_dir"),
        ("compress { }", "calibration: {"),
    ):
        path.write_text(text)
        with pytest.raises(OptionError) as caught:
            ascend.atc(line.split())
        assert hint in str(caught.value)


def test_both_lead_to_a_quantised_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHET_JOBS", "1")
    write_layer(Path("m.onnx"), batch="n")
    (info,) = onnx.load("m.onnx").graph.input
    shape = [d.dim_value or 4 for d in info.type.tensor_type.shape.dim]
    np.save("data.npy", np.random.default_rng(5).normal(size=shape).astype(np.float32))
    Path("c.cfg").write_text(
        f"{FULL}[data_preprocess_param]\ncalibrate_path={info.name}:data.npy\n"
    )
    assert run_command(["converter_lite", *f"{LINE}c.cfg".split()]) == exits.OK
    assert "CONVERT RESULT SUCCESS:0" in capsys.readouterr().out
    assert Path("m.whet").stat().st_size > 0
    Path("amct.cfg").write_text("batch_num: 1\nactivation_offset: true\n")
    line = "quantize m.onnx --calibration data.npy --config amct.cfg -o q.onnx"
    assert run_command(line.split()) == exits.OK
    for file in ("m.quantized.onnx", "q.onnx"):
        kinds = [node.op_type for node in onnx.load(file).graph.node]
        assert "QuantizeLinear" in kinds


def test_every_key_is_documented() -> None:
    text = (Path(__file__).parents[3] / "docs" / "ascend.md").read_text(encoding="utf-8")
    for section, rules in converter_quantisation.SECTIONS.items():
        for key, rule in rules.items():
            (line,) = [x for x in text.splitlines() if x.startswith(f"| `[{section}] {key}` ")]
            word = {Used: "acts", Noted: "accepted: ", Refused: "refused: "}[type(rule)]
            assert word in line

"""Ascend's command lines: what they mean, what they refuse, and that they run."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import onnx
import pytest

from whet.cli import exits
from whet.cli.main import run_command
from whet.compat import ascend
from whet.compat.aoe import AOE, tuning_report
from whet.compat.translation import Noted, Refused, Rule, Used, shape_arguments
from whet.errors import OptionError
from whet.tests.small_models import write_layer

DOCS = Path(__file__).parents[3] / "docs" / "ascend.md"
TABLES: dict[str, dict[str, Rule]] = {
    "atc": ascend.ATC,
    "benchmark": ascend.BENCHMARK,
    "graph_opt": ascend.GRAPH_OPT,
    "perf_compare": ascend.PERF_COMPARE,
    "msprof": ascend.MSPROF,
    "converter_lite": ascend.CONVERTER_LITE,
    "aoe": AOE,
}
ATC_LINE = "--model=m.onnx --framework=5 --output=m"


def test_atc_compiles() -> None:
    line = f"{ATC_LINE} --soc_version=Ascend310P3 --input_shape=x:1,3,-1,1~8;y:2 --oo_level=O1"
    meant = ascend.atc(line.split())
    assert meant.command == [
        "compile", "m.onnx", "-o", "m.whet", "--shape", "x:1,3,x_2,x_3", "--shape", "y:2", "-O1",
    ]  # fmt: skip
    assert meant.notes == ["--soc_version: code is made for the CPU of this machine"]


def test_both_spellings_of_values() -> None:
    line = ["--model", "m.onnx", "--framework", "5", "--output", '"m"']
    assert ascend.atc(line).command == ascend.atc(ATC_LINE.split()).command


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("--model=m.onnx --framework=5", "--output"),
        ("--model=m.prototxt --framework=0 --output=m", "convert the model to ONNX"),
        (f"{ATC_LINE} --precision_mode=force_fp16", "float16"),
        (f"{ATC_LINE} --compression_optimize_conf=none.cfg", "cannot read"),
        (f"{ATC_LINE} --soc_versions=Ascend310", "--soc_version"),
        (f"{ATC_LINE} --output=n", "twice"),
        (f"{ATC_LINE} --input_shape=x", "name:1,3"),
        (f"{ATC_LINE} --input_shape=x:a,b", "number"),
        (f"{ATC_LINE} --dynamic_batch_size=1", "2 to 100"),
        (f"{ATC_LINE} --dynamic_batch_size=1,2 --dynamic_dims=1;2", "exclude"),
        (f"{ATC_LINE} --mode=2", "0, 1, 3 or 6"),
        (f"{ATC_LINE} stray", "not an option"),
    ],
)
def test_atc_refuses_with_a_remedy(line: str, hint: str) -> None:
    with pytest.raises(OptionError) as caught:
        ascend.atc(line.split())
    assert hint in str(caught.value)


def test_other_tools_are_translated(tmp_path: Path) -> None:
    assert ascend.graph_opt(["--config=c.json", "--optimize"]).command == [
        "optimize", "--config", "c.json",
    ]  # fmt: skip
    found = ascend.perf_compare("--baseline=a.json --optimized=b.json --output=r.html".split())
    assert found.command == ["compare", "a.json", "b.json", "--html", "r.html"]
    assert ascend.msprof("--model=m.om --output=p".split()).command[:2] == ["profile", "m.whet"]
    lite = ascend.converter_lite("--fmk=ONNX --modelFile=m.onnx --outputFile=m".split())
    assert lite.command == ["compile", "m.onnx", "-o", "m.whet"]
    parallel = "--modelFile=m.ms --enableParallelPredict=true --parallelNum=3 --output=o.json"
    assert "--streams" in ascend.benchmark(parallel.split()).command
    (tmp_path / "real.om").write_bytes(b"")
    name = str(tmp_path / "real.om")
    assert ascend.msprof([f"--model={name}", "--output=p"]).command[1] == name


def test_shapes_of_a_compiled_file_are_sizes_of_what_it_leaves_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_layer(tmp_path / "m.onnx", batch="N")
    assert run_command(["atc", *ATC_LINE.split()]) == exits.OK
    line = "benchmark --model=m.om --loopCount=2 --inputShapes="
    assert run_command(f"{line}x:3,4 --output=/dev/null".split()) == exits.OK
    assert "--dim N=3" in capsys.readouterr().err
    for shape in ("x:3,5", "x:3", "y:3,4"):
        assert run_command(f"{line}{shape}".split()) == exits.USAGE
        assert "hint:" in capsys.readouterr().err


def test_an_empty_value_is_the_default() -> None:
    assert ascend.atc([*ATC_LINE.split(), "--input_shape="]).command == [
        "compile", "m.onnx", "-o", "m.whet",
    ]  # fmt: skip
    with pytest.raises(OptionError, match="--output is missing"):
        ascend.atc("--model=m.onnx --framework=5 --output=".split())


def test_shapes() -> None:
    assert shape_arguments("a:0:1,2") == ["--shape", "a:0:1,2"]
    assert shape_arguments("x:-1,3;") == ["--shape", "x:x_0,3"]


def test_every_option_is_documented() -> None:
    text = DOCS.read_text()
    for tool, table in TABLES.items():
        part = text.split(f"\n## {tool}\n")[1].split("\n## ")[0]
        for name, rule in table.items():
            (line,) = [x for x in part.splitlines() if x.startswith(f"| `--{name}` ")]
            expected = {Used: "acts", Noted: "accepted: ", Refused: "refused: "}[type(rule)]
            assert expected in line


FENCED = re.compile(r"^```(json|sh)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def test_the_page_runs_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commands of the page, on a small network: only the one that makes the model is other."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHET_JOBS", "1")
    blocks = dict(FENCED.findall(DOCS.read_text()))
    Path("optimization_config.json").write_text(blocks["json"])
    install, demo, *lines = blocks["sh"].splitlines()
    assert run_command(shlex.split(install)[1:4]) == exits.OK
    assert demo == "whet demo --onnx resnet50.onnx"
    write_layer(tmp_path / "resnet50.onnx")
    for line in lines:
        command, *words = shlex.split(line)
        assert (tmp_path / "bin" / command).exists()
        slower = ["--threshold=99"] if command == "perf_compare" else []
        assert run_command([command, *words, *slower]) == exits.OK, line
    text = capsys.readouterr().out
    assert "ATC run success" in text
    assert "Model = resnet50_opt.whet, numThreads = 2, MinRunTime = " in text
    assert "they were called in turn" in text
    assert "they were called in turn" in Path("report.html").read_text()
    write_layer(tmp_path / "resnet50_opt.whet")
    line = "compare before.json after.json --threshold 99"
    assert run_command(line.split()) == exits.OK
    assert "measured apart" in capsys.readouterr().out


def test_other_tools_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHET_JOBS", "1")
    write_layer(tmp_path / "m.onnx")
    lines = [
        "atc --model=m.onnx --framework=5 --output=m --soc_version=Ascend310P3",
        "msprof --model=m.om --output=prof --iterations=2",
        "converter_lite --fmk=ONNX --modelFile=m.onnx --outputFile=lite",
        "atc --mode=6 --om=m.om",
    ]
    for line in lines:
        assert run_command(line.split()) == exits.OK, line
    assert "CONVERT RESULT SUCCESS:0" in capsys.readouterr().out
    assert Path("prof/op_summary.csv").exists()
    assert run_command("atc --model=missing.onnx --framework=5 --output=x".split()) == exits.MODEL
    assert "ATC run success" not in capsys.readouterr().out
    assert run_command("atc --help".split()) == exits.OK
    assert "--framework=5" in capsys.readouterr().out


def test_more_of_atc(tmp_path: Path) -> None:
    switches = "GeluFusionPass:off;fold_pad:on"
    line = f"{ATC_LINE} --dynamic_batch_size=1,2 --optimization_switch={switches}"
    assert ascend.atc(line.split()).command == [
        "compile", "m.onnx", "-o", "m.whet", "--pass", "fuse_gelu=off", "--pass", "fold_pad=on",
        "--dynamic-batch", "1,2",
    ]  # fmt: skip
    line = f"{ATC_LINE} --dynamic_image_size=416,416;832,832 --insert_op_conf=a.cfg"
    assert ascend.atc(line.split()).command[4:] == [
        "--dynamic-image", "416x416,832x832", "--preprocess", "a.cfg",
    ]  # fmt: skip
    line = f"{ATC_LINE} --dynamic_dims=1,16;8,128"
    assert ascend.atc(line.split()).command[4:] == ["--dynamic-dims", "1,16;8,128"]
    line = "--modelFile=m.onnx --inputShapes=x:1,3 --output=o.json"
    assert "x:1,3" in ascend.benchmark(line.split()).command


def test_the_converter_reads_its_configuration(tmp_path: Path) -> None:
    file = tmp_path / "c.cfg"
    file.write_text(
        "# ours\n[ascend_context]\ninput_shape=x:1,3\nprecision_mode=enforce_fp32\n"
        "insert_op_config_file_path=a.cfg\n[graph_kernel_param]\nopt_level=2\n"
    )
    line = f"--fmk=ONNX --modelFile=m.onnx --outputFile=m --configFile={file}"
    meant = ascend.converter_lite(line.split())
    assert meant.command[4:] == ["--shape", "x:1,3", "-O2", "--preprocess", "a.cfg"]
    assert "precision_mode" in meant.notes[0]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[full_quant_param]\nbias_correction=true\n", "FULL_QUANT"),
        ("[ascend_contxt]\n", "ascend_context"),
        ("[ascend_context]\ninput_shapes=x:1\n", "input_shape"),
        ("[ascend_context]\nprecision_mode=enforce_fp16\n", "float16"),
        ("[ascend_context]\naoe_mode=subgraph tuning\n", "whet tune"),
        ("[graph_kernel_param]\nopt_level=9\n", "0 to 3"),
        ("input_shape=x:1\n", "[section]"),
        ("[acl_option_cfg_param]\ninput_shape=a:1\n[ascend_context]\ninput_shape=a:2\n", "one"),
    ],
)
def test_configurations_that_are_refused(tmp_path: Path, text: str, hint: str) -> None:
    (tmp_path / "c.cfg").write_text(text)
    line = f"--fmk=ONNX --modelFile=m.onnx --outputFile=m --configFile={tmp_path / 'c.cfg'}"
    with pytest.raises(OptionError) as caught:
        ascend.converter_lite(line.split())
    assert hint in str(caught.value)


def test_checking_writes_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_layer(tmp_path / "m.onnx", batch="n")
    assert run_command("atc --mode=3 --model=m.onnx --framework=5".split()) == exits.OK
    found = json.loads(Path("check_result.json").read_text())
    assert [row["result"] for row in found["op"]] == ["success", "success"]
    model = onnx.load("m.onnx")
    model.graph.node[1].op_type = "Nonesuch"
    onnx.save(model, "m.onnx")
    line = "atc --mode=3 --model=m.onnx --framework=5 --check_report=r.json"
    assert run_command(line.split()) != exits.OK
    (_, wrong) = json.loads(Path("r.json").read_text())["op"]
    assert wrong["op_name"] == "activate"
    assert wrong["result"] == "failed"
    assert "Nonesuch" in json.dumps(wrong)
    assert wrong["cause"][0]["message"]


def test_commands_under_their_own_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a folder"
    assert run_command(["ascend-commands", "--install", str(folder)]) == exits.OK
    assert f"export PATH='{folder}':$PATH" in capsys.readouterr().out
    assert sorted(path.name for path in folder.iterdir()) == sorted(ascend.TOOLS)
    shown = subprocess.run([folder / "atc", "--help"], capture_output=True, text=True, check=True)
    assert "--framework=5" in shown.stdout
    refused = subprocess.run([folder / "atc", "--nonesuch=1"], capture_output=True, check=False)
    assert refused.returncode == exits.USAGE
    assert run_command(["ascend-commands", "--install", str(folder)]) == exits.OK
    assert run_command(["ascend-commands", "--remove", str(folder)]) == exits.OK
    assert list(folder.iterdir()) == []


def test_foreign_files_are_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "msprof").write_text("#!/bin/sh\n")
    assert run_command(["ascend-commands", "--install", str(tmp_path)]) == exits.ARTIFACT
    assert "another msprof" in capsys.readouterr().err
    assert run_command(["ascend-commands", "--remove", str(tmp_path)]) == exits.OK
    assert [path.name for path in tmp_path.iterdir()] == ["msprof"]
    assert run_command(["ascend-commands"]) == exits.USAGE
    assert "--install DIR" in capsys.readouterr().err


def test_the_tuner_writes_bank_and_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHET_JOBS", "1")
    write_layer(tmp_path / "m.onnx")
    line = "aoe --framework=5 --model=m.onnx --job_type=2 --tune_seconds=0.1"
    assert run_command(line.split()) == exits.OK
    assert "Performance improved by " in capsys.readouterr().out
    basic, found = json.loads(Path("aoe_result_opat_m.json").read_text())
    assert basic["basic"]["tuning_name"] == "m"
    assert found["OPAT"]["repo_summary"]["total_num"] >= 1
    line = "atc --model=m.onnx --framework=5 --output=m --op_bank_path=m.tuning.json"
    assert run_command(line.split()) == exits.OK


def test_the_report_of_the_tuner() -> None:
    entry = {"answer": {"size": 0, "tile": None}, "default_us": 20.0, "tuned_us": 15.0}
    same = {"answer": None, "default_us": 3.0, "tuned_us": 3.0}
    facts = {
        "seconds": 7.4, "improved": 1, "improved_before": 0,
        "comparison": {"ratio": 0.9, "medians_ms": [10.0, 9.0], "verdict": "faster"},
        "entries": {"product rows=4 | cpu": entry, "product rows=5 | cpu": same},
    }  # fmt: skip
    _, found = tuning_report(facts, "m")
    assert found["OPAT"]["model_performance_improvement"] == "10.00%"
    (operator,) = found["OPAT"]["repo_modified_operators"]
    assert operator["op_name"] == "product rows=4"
    assert operator["tune_performance"]["Format"]["performance_improvement"] == "25.00%"
    assert found["OPAT"]["repo_summary"]["repo_reserved_num"] == 1

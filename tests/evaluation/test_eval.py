"""The program: the same digits on every run, stopped or not; lost faces counted; comparison and blind pairs."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from small_evaluation import CONFIGS, Grey
from small_evaluation import synthetic_protocol as protocol

from gpavatar.data.shards import ShardSet
from gpavatar.eval import evaluate, launched, share, write_results
from gpavatar.evaluation import conditions
from gpavatar.evaluation.compare import Difference, compare, read_side
from gpavatar.evaluation.metrics import FRAME, REGIONS
from gpavatar.evaluation.results import ClipScores
from gpavatar.evaluation.run import Evaluation
from gpavatar.evaluation.source_copy import SourceCopy
from gpavatar.evaluation.statistics import Estimate
from gpavatar.evaluation.synthetic_truth import SyntheticTruth
from gpavatar.types import InputError

pytestmark = pytest.mark.download


def results(evaluation: Evaluation) -> dict:
    return json.loads((evaluation.folder / "metrics.json").read_text())


def rows(evaluation: Evaluation) -> list[dict[str, str]]:
    with (evaluation.folder / "frames.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_that_was_stopped_ends_with_the_same_digits(people, tmp_path, monkeypatch):
    second = Grey()
    monkeypatch.setattr(conditions, "code_version", lambda: "while somebody commits")

    def evaluation(name: str) -> Evaluation:
        config = protocol(people, "measured=[1]", "tasks=[self]")
        return Evaluation(config, [SourceCopy(), second], tmp_path / name)

    whole, stopped = evaluation("whole"), evaluation("stopped")
    list(whole.do_missing())
    next(stopped.do_missing())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(second, "render", None)  # the next picture fails: its clip is not half done
        with pytest.raises(TypeError):
            list(stopped.do_missing())
    resumed = evaluation("stopped")
    assert 0 < len(resumed.missing) < len(resumed.units)
    list(resumed.do_missing())
    for one in (whole, resumed):
        write_results(one)
    for name in ("metrics.json", "frames.csv"):
        assert (resumed.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_another_protocol_or_method_does_not_find_the_old_scores(evaluated, people):
    for change in ("seed=1", "measured=[1]", "tasks=[self]"):
        assert len(Evaluation(protocol(people, change), evaluated.methods, evaluated.folder).missing)
    with pytest.raises(InputError, match="two methods are called grey"):
        Evaluation(protocol(people), [Grey(), Grey()], evaluated.folder)
    other = Grey()
    other.sha256 = "1" * 64
    again = Evaluation(protocol(people), [SourceCopy(), other], evaluated.folder)
    assert [again.labels[unit.method] for unit in again.missing] == ["grey"] * 2


def test_metrics_json_has_every_mean_where_it_is_said_to_be(evaluated):
    methods = results(evaluated)["methods"]
    assert set(methods) == {"source_copy", "textured_mesh", "grey"}
    for task in ("self", "cross", "novel_view"):
        for number in ("1", "2"):
            regions = methods["textured_mesh"][task][number]
            assert set(regions) == {*REGIONS, FRAME}
            low, high = regions["face"]["psnr_ci"]
            assert low <= regions["face"]["psnr"] <= high
            assert set(regions["foreground"]) >= {"psnr", "ssim", "l1", "lpips", "depth_mm", "depth_missing"}
            assert set(regions[FRAME]) >= {"csim", "aed", "apd", "akd_mediapipe"}


def test_means_are_those_of_the_rows_people_first(evaluated):
    of = [row for row in rows(evaluated) if (row["method"], row["task"], row["num_sources"]) == ("grey", "self", "1")]
    people = {row["identity"] for row in of}
    by_person = [[float(row["full.psnr"]) for row in of if row["identity"] == person] for person in people]
    mean = sum(sum(values) / len(values) for values in by_person) / len(people)
    assert results(evaluated)["methods"]["grey"]["self"]["1"]["full"]["psnr"] == pytest.approx(mean, abs=1e-6)


def test_the_header_says_what_the_numbers_hold_for(evaluated):
    header = results(evaluated)["header"]
    shards = ShardSet.open(evaluated.config.set)
    assert header["clips"] == [clip.clip for clip in shards.index.clips]
    for name in ("crop", "background", "set_sha256", "commit", "machine", "reductions", "intervals", "targets"):
        assert header[name]
    said = " ".join(header["metrics"])
    assert "LPIPS trunk: alex" in said and "identity network: SFace" in said and "a lost face counts as" in said


def test_a_lost_face_is_counted_and_costs(evaluated):
    for task in ("self", "cross", "novel_view"):
        grey = results(evaluated)["methods"]["grey"][task]["1"][FRAME]
        of = [row for row in rows(evaluated) if (row["method"], row["task"], row["num_sources"]) == ("grey", task, "1")]
        assert grey["aed"] == 1.0 and grey["apd"] == 90.0 and grey["csim"] == 0.0
        assert grey["aed_found"] is None
        assert grey["aed_failed"] == len(of) > 0 and all("aed" in row["lost"].split() for row in of)
    assert results(evaluated)["methods"]["textured_mesh"]["self"]["1"][FRAME]["aed_failed"] == 0


def test_the_mesh_beats_the_copy_and_knows_its_depth(evaluated):
    methods = results(evaluated)["methods"]
    for task in ("self", "cross", "novel_view"):
        mesh, copy = (methods[name][task]["1"] for name in ("textured_mesh", "source_copy"))
        assert mesh["face"]["psnr"] > copy["face"]["psnr"] and mesh[FRAME]["apd"] < copy[FRAME]["apd"]
        assert mesh["face"]["depth_mm"] < 10 and mesh["face"]["depth_missing"] < 0.1  # measured 0.8 to 2; 0.03
        assert "depth_mm" not in copy["face"]


def test_every_step_of_the_curve_has_its_change_and_psnr_a_verdict(evaluated):
    steps = results(evaluated)["curve"]
    assert {(step["fewer"], step["more"]) for step in steps} == {(1, 2)}
    for step in steps:
        assert step["verdict"] in ({"holds", "unproven", "worse"} if step["metric"] == "psnr" else {""})
        if step["method"] == "source_copy":
            assert step["change"] == 0.0 and step["verdict"] in ("holds", "")


def test_a_result_compared_with_itself_does_not_differ_and_methods_do(evaluated):
    folder = str(evaluated.folder)
    same = compare(read_side(f"{folder}:textured_mesh"), read_side(f"{folder}:textured_mesh"))
    assert same and all(one.change.mean == 0.0 and one.verdict == "" for one in same)
    found = compare(read_side(f"{folder}:source_copy"), read_side(f"{folder}:textured_mesh"))
    face = next(
        one for one in found if (one.task, one.num_sources, one.region, one.metric) == ("self", 1, "face", "psnr")
    )
    means = (
        results(evaluated)["methods"][name]["self"]["1"]["face"]["psnr"] for name in ("source_copy", "textured_mesh")
    )
    copy, mesh = means
    assert face.change.mean == pytest.approx(mesh - copy, abs=1e-5)


@pytest.mark.parametrize(
    ("metric", "low", "high", "said"),
    [
        ("psnr", 0.1, 0.3, "better"),
        ("lpips", 0.1, 0.3, "worse"),
        ("lpips", -0.3, -0.1, "better"),
        ("psnr", -0.1, 0.3, ""),
    ],
)
def test_better_is_said_only_where_the_interval_says_so(metric, low, high, said):
    assert Difference("self", 1, "full", metric, Estimate((low + high) / 2, low, high, 9)).verdict == said


def test_results_by_two_protocols_are_not_compared(evaluated, tmp_path):
    for name in ("metrics.json", "frames.csv"):
        text = (evaluated.folder / name).read_text()
        (tmp_path / name).write_text(text.replace(results(evaluated)["header"]["protocol_sha256"], "0" * 64))
    with pytest.raises(InputError, match="measure both by one protocol"):
        compare(read_side(str(evaluated.folder)), read_side(str(tmp_path)))
    with pytest.raises(InputError, match="no finished evaluation"):
        read_side(str(tmp_path / "nothing"))
    with pytest.raises(InputError, match="did you mean grey"):
        read_side(f"{evaluated.folder}:gray")


def test_several_devices_give_what_one_gives(evaluated, people, tmp_path):
    shared = Evaluation(protocol(people, "measured=[1]", "tasks=[self]"), [SourceCopy()], tmp_path)
    assert share(shared, launched(1, "cpu"))
    of = ("source_copy", "self", 1)
    alone = [take for take in evaluated.takes() if (take.method, take.task, take.num_sources) == of]
    for one, other in zip(shared.takes(), alone, strict=True):
        assert (one.clip, one.rows) == (other.clip, other.rows)
        for a, b in zip(one.columns, other.columns, strict=True):
            assert torch.equal(a.scores.values.nan_to_num(9e9), b.scores.values.nan_to_num(9e9))


def test_scores_on_disk_come_back_to_the_bit_and_damage_is_named(evaluated, tmp_path):
    unit = evaluated.units[1]
    scores = ClipScores.load(unit.scores)
    scores.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == unit.scores.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(unit.scores.read_bytes()[:-100])
    with pytest.raises(InputError, match="delete it and run again"):
        ClipScores.load(tmp_path / "cut.safetensors")


def test_a_set_drawn_with_other_settings_gives_no_truth_for_cross(people):
    shards = ShardSet.open(people)
    first, other = shards.sample(0), shards.sample(12)
    with pytest.raises(InputError, match="other settings"):
        SyntheticTruth(shards).frames(
            type(first)(**{**vars(first), "image_u8": other.image_u8}), [(first.params, first.camera)]
        )


def test_a_set_that_is_not_there_says_how_to_make_it(tmp_path):
    with pytest.raises(InputError, match="make it with make data"):
        evaluate(CONFIGS / "eval_synthetic.yaml", set=(f"set={tmp_path}/none", "baselines=[source_copy]"), device="cpu")

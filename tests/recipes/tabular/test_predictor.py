from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from tests.recipes.tabular.tables import Tables, as_text, customers, model_folder, rows_of, train
from tunesmith.core.errors import BadData, InvalidInput, NotFound, UnsupportedFormat
from tunesmith.recipes.catalog import get_recipe, kind_of
from tunesmith.recipes.plans import Facts, Machine, plan
from tunesmith.recipes.tabular.batch import predict_file
from tunesmith.recipes.tabular.predictor import load
from tunesmith.worker.run import Run


def test_values_that_cannot_be_read_are_named(classifier: Run) -> None:
    model = load(model_folder(classifier))
    rows = [{"age": 30}, {"age": "old", "since": "yesterday"}, "row", {"agee": 3}]
    with pytest.raises(InvalidInput) as caught:
        model.predict(rows)
    found = {d["loc"]: d["message"] for d in caught.value.details}
    assert set(found) == {"inputs.1.age", "inputs.1.since", "inputs.2", "inputs.3.agee"}
    assert found["inputs.1.age"] == "'old' is not a number; age is a number, such as 12.5"
    assert len(model.predict([{"agee": 3}], {"unknown_columns": "ignore"})) == 1 and model.ignored == {"agee": 1}
    with pytest.raises(InvalidInput) as caught:
        model.predict([{}], {"top": 0, "unsure_below": 2, "topp": 1})
    assert {d["loc"] for d in caught.value.details} == {"parameters.top", "parameters.unsure_below", "parameters.topp"}


def test_missing_and_unseen_values_are_taken(classifier: Run) -> None:
    model = load(model_folder(classifier))
    unseen, missing, given = model.predict(
        [{"plan": "gold", "age": "40"}, {"age": 40}, {"age": 40.0, "plan": None, "left": "yes"}]
    )
    for answer in (missing, given):
        assert [each["score"] for each in answer] == pytest.approx([each["score"] for each in unseen], rel=1e-12)
    assert model.unseen == {"plan": 1}
    assert sum(each["score"] for each in unseen) == pytest.approx(1) and unseen[0]["score"] >= unseen[1]["score"]
    assert model.predict([]) == [] and len(model.predict([{}], {"top": 1})[0]) == 1


def test_unsure_answers_say_so(classifier: Run) -> None:
    model = load(model_folder(classifier))
    rows = rows_of(as_text(customers(40, seed=5)), "left", "spent")
    plain, careful = model.predict(rows), model.predict(rows, {"unsure_below": 0.9})
    for a, b in zip(plain, careful, strict=True):
        if a[0]["score"] < 0.9:
            assert b[0] == {"label": "unsure", "score": 1 - a[0]["score"]} and b[1:] == a
        else:
            assert a == b
    assert 0 < sum(b[0]["label"] == "unsure" for b in careful) < len(rows)


def test_a_csv_file_is_predicted_row_by_row(classifier: Run, regressor: Run, tmp_path: Path) -> None:
    table = as_text(customers(50, seed=5))
    rows = rows_of(table, "left", "spent")
    rows[7]["age"] = "old"
    path, out = tmp_path / "in.csv", tmp_path / "out.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow([*rows[0], "error"])
        writer.writerows([[*("" if v is None else v for v in row.values()), "x"] for row in rows])
        file.write("1;2\n")
    told = predict_file(model_folder(classifier), path, out)
    assert (told.rows, told.failed, told.missing_columns, told.unused_columns) == (51, 2, (), ("error",))
    with out.open(newline="") as file:
        found = list(csv.DictReader(file, delimiter=";"))
    assert len(found) == 51 and found[7]["prediction"] == "" and "age: 'old' is not a number" in found[7]["error_"]
    assert found[50]["error_"] == "has 2 cells instead of 5"
    expected = load(model_folder(classifier)).predict([rows[0]])[0][0]
    assert (found[0]["prediction"], float(found[0]["probability"])) == (expected["label"], expected["score"])
    predict_file(model_folder(regressor), path, out)
    with out.open(newline="") as file:
        first = next(csv.DictReader(file, delimiter=";"))
    assert float(first["low"]) < float(first["prediction"]) < float(first["high"])
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InvalidInput, match="none of the model's columns"):
        predict_file(model_folder(classifier), tmp_path / "other.csv", tmp_path / "no.csv")
    assert not list(tmp_path.glob("*no.csv*")) and not list(tmp_path.glob(".other*"))


def test_the_kind_describes_a_model(classifier: Run) -> None:
    folder = model_folder(classifier)
    kind = kind_of(folder)
    found = kind.describe(folder, None)
    assert kind.name == "tabular" and found.task == "tabular-classification" and found.labels == ("no", "yes")
    by_name = {column["name"]: column for column in found.inputs}
    assert by_name["plan"]["type"] == "category" and set(by_name["plan"]["choices"]) == {"basic", "family", "pro"}
    assert by_name["age"]["type"] == "number" and by_name["age"]["low"] >= 18 and by_name["message"]["type"] == "text"
    assert "path/to" in (folder / "README.md").read_text() and kind.load.endswith("predictor:load")


def test_files_that_are_wrong_or_hostile_are_refused(classifier: Run, tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(model_folder(classifier), tmp_path / name))

    def edited(folder: Path, **changes: object) -> Path:
        path = folder / "model.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return folder

    extra = copy("extra")
    (extra / "model.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(UnsupportedFormat, match=r"model\.pkl is of a format that can run code"):
        load(extra)
    cut = copy("cut")
    next(cut.glob("lightgbm-*.txt")).write_text("tree")
    with pytest.raises(BadData, match="bytes instead of"):
        load(cut)
    changed = copy("changed")
    file = next(changed.glob("lightgbm-*.txt"))
    file.write_bytes(file.read_bytes().replace(b"0", b"1"))
    with pytest.raises(BadData, match="has changed"):
        load(changed)
    gone = copy("gone")
    next(gone.glob("catboost-*.cbm")).unlink()
    with pytest.raises(NotFound, match="is missing"):
        load(gone)
    told = json.loads((model_folder(classifier) / "model.json").read_text())
    escaping = {**told["files"], "../model.txt": {"size": 1, "sha256": ""}}
    with pytest.raises(BadData, match="cannot be"):
        load(edited(copy("escaping"), files=escaping))
    with pytest.raises(UnsupportedFormat, match="not read here"):
        load(edited(copy("other"), members=[{**told["members"][0], "model": "joblib"}]))
    with pytest.raises(UnsupportedFormat, match="schema 99"):
        load(edited(copy("newer"), schema=99))
    (tmp_path / "newer" / "encoding.safetensors").write_bytes(b"x" * 10)
    with pytest.raises(BadData):
        load(edited(tmp_path / "newer", schema=1))
    for name, changes in (("columns", {"columns": told["columns"][1:]}), ("calibration", {"calibration": {"method": "isotonic"}}),
                          ("weights", {"members": [{**told["members"][0], "weight": "all"}]})):  # fmt: skip
        with pytest.raises(BadData, match="columns cannot be read"):
            load(edited(copy(name), **changes))
    (tmp_path / "cut" / "model.json").write_text('{"format": "tunesmith-tabular", ')
    with pytest.raises(BadData, match="is not JSON"):
        load(tmp_path / "cut")


def test_the_plan_fills_in_and_guesses_the_time() -> None:
    facts = Facts(machine=Machine("cpu", 8 * 1024**3), num_rows=2_000_000)
    found = plan(get_recipe("tabular"), {"target": "y"}, facts)
    assert found.params["folds"] == 3 and "folds" in found.reasons and found.params["validation_split"] < 0.06
    assert (
        found.estimate["duration_s"] <= 600
        and "guess" in found.estimate["duration_from"]
        and found.estimate["fits"] is not None
    )
    assert plan(get_recipe("tabular"), {"target": "y", "folds": 7}, facts).params["folds"] == 7
    with pytest.raises(InvalidInput) as caught:
        plan(get_recipe("tabular"), {"folds": 1, "metrc": "rmse", "split": "time"}, facts)
    assert {"hyperparameters.folds", "hyperparameters.metrc"} <= {d["loc"] for d in caught.value.details}


def test_eight_classes_and_balanced_weights(tables: Tables) -> None:
    table = {
        "x": [i % 8 + (i % 3) / 10 for i in range(160)],
        "c": ["ab"[i % 2] for i in range(160)],
        "y": [f"k{i % 8}" for i in range(160)],
    }
    run = tables.run(table, target="y", class_weight="balanced", importance=False, max_iterations=30)
    assert train(run) == "completed"
    answer = load(model_folder(run)).predict([{"x": 3.1, "c": "b"}])[0]
    assert answer[0]["label"] == "k3" and len(answer) == 8 and sum(a["score"] for a in answer) == pytest.approx(1)

from __future__ import annotations

import numpy as np
import pytest

from tests.recipes.tabular.tables import Tables, as_text, customers, events, model_folder, notices, train
from tunesmith.core.errors import JobFailure
from tunesmith.recipes.tabular.columns import Column
from tunesmith.recipes.tabular.encoding import Encoding
from tunesmith.recipes.tabular.kind import TABULAR
from tunesmith.recipes.tabular.spec import TabularParams
from tunesmith.recipes.tabular.table import read_table
from tunesmith.recipes.tabular.texts import TextEncoder
from tunesmith.recipes.tabular.values import read_category, read_date, read_number


def params(**given: object) -> TabularParams:
    return TabularParams.model_validate({"folds": 2, **given})


def test_types_and_missing_values_are_found_in_texts(tables: Tables) -> None:
    table = customers(100)
    more = {
        "id": [f"c{i:04}" for i in range(100)],
        "running": list(range(1000, 1100)),
        "same": ["x"] * 100,
        "nothing": [None] * 100,
    }
    run = tables.run(as_text(table | more), target="left")
    found = read_table(run, params(target="left"))
    assert {c.name: c.type for c in found.columns} == {
        "age": "number", "plan": "category", "since": "date", "message": "text", "spent": "number",
    }  # fmt: skip
    by_name = {c.name: c for c in found.columns}
    assert by_name["age"].num_missing == table["age"].count(None) > 0
    assert by_name["plan"].num_missing == table["plan"].count(None) > 0
    assert set(by_name["plan"].choices) == {"basic", "family", "pro"} and by_name["age"].is_integer
    assert set(found.left_out) == {"id", "running", "same", "nothing"}
    assert all(
        name in notices(run) for name in ("id (it looks like", "same (it has one value", "nothing (it is empty)")
    )
    assert "Guessed the task: classification" in notices(run)


def test_types_can_be_set_and_columns_left_out(tables: Tables) -> None:
    table = as_text(customers(60)) | {"id": [f"c{i}" for i in range(60)]}
    run = tables.run(table)
    found = read_table(
        run,
        params(
            target="left",
            column_types={"id": "category", "age": "category"},
            exclude_columns=["spent"],
            text_columns=["plan"],
        ),
    )
    assert {c.name: c.type for c in found.columns} == {
        "age": "category", "plan": "text", "since": "date", "id": "category",
    }  # fmt: skip
    assert found.left_out["message"].startswith("it looks like an identifier")
    with pytest.raises(JobFailure, match="column_types names columns that the data does not have: agee"):
        read_table(run, params(target="left", column_types={"agee": "number"}))


def test_unreadable_numbers_are_counted_with_their_rows(tables: Tables) -> None:
    table = as_text(customers(100))
    table["age"][4], table["age"][9] = "about 30", "inf"
    run = tables.run(table)
    found = read_table(run, params(target="left"))
    assert np.isnan(found.values["age"][[4, 9]]).all()
    told = [event for event in events(run, "notice") if event.code == "unreadable_values"]
    assert len(told) == 1 and told[0].rows == [5, 10] and "2 values of age" in told[0].message


@pytest.mark.parametrize(
    ("change", "given", "said"),
    [
        ({"left": ["yes"] * 60}, {}, "one class only"),
        ({"left": [f"c{i}" for i in range(60)]}, {}, "60 classes in 60 rows"),
        ({"left": ["yes", None, *["no", "yes"] * 29]}, {}, "missing in row 2"),
        ({"left": ["rare", *["no", "yes"] * 29, "no"]}, {}, "fewer than 3 rows to learn from: 'rare'"),
        ({"left": [*["1.5", "inf"] * 30]}, {"task": "regression"}, "no finite number in rows 2, 4"),
        ({"spent": [[1.0, 2.0]] * 60}, {}, "lists or objects cannot be used here: spent"),
        ({}, {"target": "lft"}, "no column 'lft'"),
        ({}, {"target": ""}, "No column to predict"),
    ],
)  # fmt: skip
def test_bad_data_is_named(tables: Tables, change: dict, given: dict, said: str) -> None:
    run = tables.run(customers(60) | change)
    with pytest.raises(JobFailure, match=said):
        read_table(run, params(**{"target": "left", **given}))


def test_rows_without_target_and_rare_classes_are_left_out_when_asked(tables: Tables) -> None:
    left = ["rare", None, *["no", "yes"] * 29]
    run = tables.run(customers(60) | {"left": left})
    found = read_table(run, params(target="left", drop_missing_target=True, rare_classes="drop"))
    assert found.classes == ["no", "yes"] and len(found.y) == 58 and found.numbers[0] == 3
    assert "missing in row 2; left out" in notices(run) and "'rare' (1); their 1 row left out" in notices(run)


def test_cells_are_read_alike() -> None:
    assert (
        read_number(" 1e3 ") == 1000 and np.isnan(read_number("N/A")) and read_category(3.0) == read_category(3) == "3"
    )
    assert read_category(True) == "true" and read_category(" ") is None
    assert read_date("2024-03-04") == read_date("04.03.2024") == read_date("2024/03/04") == read_date("Mar 4 2024")
    for reader, bad in (
        (read_number, "12 kg"),
        (read_number, "1_000"),
        (read_date, "03/04/2024"),
        (read_date, "20240304"),
    ):
        with pytest.raises(ValueError, match="is not a"):
            reader(bad)


def test_text_numbers_equal_those_of_skrub(tmp_path) -> None:
    import pandas as pd
    from skrub import StringEncoder

    texts = np.asarray([*customers(120)["message"], None], dtype=object)
    ours = TextEncoder.fit(texts, 5)
    assert ours is not None and ours.width == 30
    theirs = StringEncoder(30, random_state=5)
    theirs.fit(pd.Series([text or "" for text in texts], name="t"))
    asked = ["cancel my delivery", "völlig anders", "", *texts[:20]]
    expected = theirs.transform(pd.Series(asked, name="t")).to_numpy()
    assert np.allclose(ours.transform(np.asarray(asked, dtype=object)), expected, atol=1e-5)
    encoding = Encoding([Column("t", "text")], {"t": ours})
    encoding.save(tmp_path)
    values = {"t": np.asarray(asked, dtype=object)}
    assert np.array_equal(Encoding.load(tmp_path).transform(values), encoding.transform(values))


def test_dates_become_parts() -> None:
    encoding = Encoding([Column("d", "date", has_time=True)], {})
    found = encoding.transform({"d": np.asarray([read_date("2024-02-29T13:45:00"), np.nan])})
    names = [feature.name.split(": ")[1] for feature in encoding.features]
    assert dict(zip(names, found[0], strict=True)) == {
        "days": 19782, "year": 2024, "month": 2, "day": 29, "weekday": 3, "hour": 13,
    }  # fmt: skip
    assert np.isnan(found[1]).all()


@pytest.mark.parametrize(
    ("column", "classes"),
    [
        (["1", "2"] * 40, ["1", "2"]),
        ([1, 2] * 40, [1, 2]),
        ([True, False] * 40, [False, True]),
        ([0.5, 1.5] * 40, [0.5, 1.5]),
    ],
)
def test_labels_stay_what_they_are_in_the_data(tables: Tables, column: list, classes: list) -> None:
    from tunesmith.recipes.tabular.predictor import load

    table = {"x": [float(i % 2) + i / 1000 for i in range(80)], "label": column}
    run = tables.run(
        table, data={"mapping": {"label": "label"}}, task="classification", models=["linear"], importance=False
    )
    assert train(run) == "completed"
    model = load(model_folder(run))
    answer = model.predict([{"x": 0.0}], {})[0]
    assert model.classes == classes and [type(c) for c in model.classes] == [type(c) for c in classes]
    assert sorted((a["label"] for a in answer), key=str) == sorted(classes, key=str)
    assert answer[0]["label"] == column[0]
    assert TABULAR.describe(model_folder(run), None).labels == tuple(map(str, classes))
